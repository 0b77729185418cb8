"""One training step, and the object that gives it to a user's own loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.errors import ContractError, DivergedError, UsageError
from mtlbench.flat import FlatParameters
from mtlbench.interfaces import (
    Batch,
    GradientView,
    InputGroup,
    Loss,
    Passes,
    SharpnessWrapper,
    Update,
    WeightingMethod,
    check_update,
)
from mtlbench.model import MultiTaskModel
from mtlbench.problem import StepProblem
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.restrict import restricted
from mtlbench.views import NonFiniteError

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Args:
        losses: (K,), before the step; NaN for a task without a label; None if one of them was not
            finite.
        weights: (K,), where the method works by weights and the wrapper aggregates once; 0 for a
            task without a label.
        skipped: why the parameters were left alone, empty if they were not.
    """

    losses: Tensor | None
    weights: Tensor | None = None
    skipped: str = ""


def train_step(
    problem: StepProblem,
    methods: Sequence[WeightingMethod],
    wrapper: SharpnessWrapper,
    optimizer: Optimizer,
    *,
    scale: float = 1.0,
    clip_norm: float | None = None,
) -> StepReport:
    """Aggregate, write the gradient, step the optimizer, let the methods advance.

    A non-finite loss or gradient skips the step: neither parameters nor any state nor running
    statistics move. A task without a label takes no part: its head and what the methods know of it
    stay as they are, and the others' step is what it would be without it.

    Args:
        problem: the step's problem.
        methods: one for each of the wrapper's parts.
        wrapper: where the gradients are taken.
        optimizer: of the model's parameters.
        scale: factor on every aggregate, and on its heads where the method weights them.
        clip_norm: bound of the shared gradient's norm, after ``scale``.

    Raises:
        ContractError: a method returned anything but an update, or was built for another K.
    """
    tasks, n_tasks = problem.flat.tasks, len(problem.flat.all_heads)
    for method in methods:
        if method.n_tasks != n_tasks:
            built = f"was built for {method.n_tasks} tasks"
            raise ContractError(f"{method.info.name} {built}, the step has {n_tasks}")
    if not tasks:
        return StepReport(None, skipped="no task has a label")
    with ExitStack() as stack:
        for method in methods:
            stack.enter_context(restricted(method, tasks))
        report = _restricted_step(problem, methods, wrapper, optimizer, scale, clip_norm)
    losses = _spread(report.losses, tasks, n_tasks, float("nan"))
    return replace(report, losses=losses, weights=_spread(report.weights, tasks, n_tasks, 0.0))


def _restricted_step(
    problem: StepProblem,
    methods: Sequence[WeightingMethod],
    wrapper: SharpnessWrapper,
    optimizer: Optimizer,
    scale: float,
    clip_norm: float | None,
) -> StepReport:
    """The step of the tasks that take part."""
    flat = problem.flat
    sizes = [part.stop - part.start for part in (flat.shared, *flat.heads)]
    before = [vars(method).copy() for method in methods]

    def skip(losses: Tensor | None, weights: Tensor | None, reason: str) -> StepReport:
        problem.undo_statistics()
        for method, attributes in zip(methods, before, strict=True):
            vars(method).update(attributes)
        return StepReport(losses, weights, reason)

    try:
        update = wrapper.update(problem, *(partial(_aggregate, m, scale, sizes) for m in methods))
    except NonFiniteError as error:
        return skip(None, None, str(error))
    except BaseException:
        skip(None, None, "")
        raise
    _write(flat, update, clip_norm)
    if not torch.isfinite(flat.grad.buffer.sum()):
        return skip(problem.first_losses, update.weights, "non-finite gradient")
    flat.grad.bind()
    optimizer.step()
    after: list[Tensor] = []

    def evaluate() -> Tensor:
        if not after:
            after.append(problem.evaluate())
        return after[0]

    for method in methods:
        method.after_step(evaluate)
    wrapper.after_step()
    return StepReport(problem.first_losses, update.weights)


def _spread(
    values: Tensor | None, tasks: Sequence[int], n_tasks: int, missing: float
) -> Tensor | None:
    """Values of the tasks that take part among those of all."""
    if values is None or len(tasks) == n_tasks:
        return values
    spread = values.new_full((n_tasks,), missing)
    spread[list(tasks)] = values
    return spread


def _aggregate(
    method: WeightingMethod, scale: float, sizes: Sequence[int], view: GradientView
) -> Update:
    """The method's update at the protocol's scale; unit head gradients are at it already."""
    update = method.aggregate(view)
    check_update(method.info.name, update, view, sizes)
    if scale == 1.0:
        return update
    weighted = method.info.head_policy == "weighted"
    heads = [scale * own for own in update.heads] if weighted else update.heads
    return Update(scale * update.shared, heads, update.weights)


def _write(flat: FlatParameters, update: Update, clip_norm: float | None) -> None:
    """Put an update into the flat gradient; copying a buffer onto itself costs nothing."""
    flat.grad.rows[0].copy_(update.shared)
    for own, new in zip(flat.grad.heads, update.heads, strict=True):
        if new is not own:
            own.copy_(new)
    if clip_norm is not None:
        shared = flat.grad.rows[0]
        shared.mul_((clip_norm / shared.norm()).clamp(max=1.0))


def build_pair(
    method: str | Spec, sharpness: str | Spec | None, n_tasks: int
) -> tuple[list[WeightingMethod], SharpnessWrapper]:
    """A wrapper and as many copies of a method as it has parts.

    Logs a warning if the wrapper expects what the method does not claim.

    Args:
        method: name and options.
        sharpness: name and options; None for the wrapper that changes nothing.
        n_tasks: K.

    Raises:
        UsageError: an unknown name or a bad option, or the two do not go together.
    """
    wrapper = SHARPNESS.build(SHARPNESS.default if sharpness is None else sharpness)
    methods = [METHODS.build(method, n_tasks) for _ in range(wrapper.parts)]
    info, name = methods[0].info, wrapper.info.name
    if methods[0].at == "representation" and not wrapper.common_point:
        raise UsageError(
            f"{info.name}:at=representation needs gradients at one point, {name} takes each task's "
            "at a point of its own; use at=shared"
        )
    missing = [claim for claim in wrapper.expects if claim not in info.claims]
    if missing:
        logger.warning(
            "%s expects a method with %s, which %s does not claim: see the docstring of %s",
            name,
            ", ".join(missing),
            info.name,
            type(wrapper).__name__,
        )
    return methods, wrapper


class Stepper:
    """Any weighting method with any sharpness wrapper, for a training loop of one's own.

    >>> stepper = Stepper(model, optimizer, method="fairgrad:alpha=2", sharpness="samo")
    >>> for batch in loader:
    ...     stepper.step(batch, loss)

    Args:
        model: on its final device. Its trainable parameters are moved into one buffer; it goes on
            working as before.
        optimizer: of the model's parameters; never call its ``zero_grad``.
        method: name and options (``"cagrad:c=0.4"``) of a weighting method.
        sharpness: name and options of a wrapper; by default the one that changes nothing.
        objectives: the task names, in order; all heads of the model by default.
        seed: of the perturbation noise.
        gradient_scale: see :class:`~mtlbench.interfaces.Protocol`.
        clip_norm: see :class:`~mtlbench.interfaces.Protocol`.

    Raises:
        UsageError: an unknown name, or an option of the wrong type or range.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        optimizer: Optimizer,
        method: str | Spec,
        sharpness: str | Spec | None = None,
        *,
        objectives: Sequence[str] | None = None,
        seed: int = 0,
        gradient_scale: str = "paper",
        clip_norm: float | None = None,
    ) -> None:
        self.model, self.optimizer, self.clip_norm = model, optimizer, clip_norm
        self.objectives = list(model.heads) if objectives is None else list(objectives)
        self.methods, self.wrapper = build_pair(method, sharpness, len(self.objectives))
        K = len(self.objectives)
        to_sum = gradient_scale == "sum" and self.methods[0].info.scale == "mean"
        self.scale = float(K) if to_sum else 1.0
        self.flat = FlatParameters(model, self.objectives)
        for part in (*self.methods, self.wrapper):
            part.to(self.flat.data.device)
        self.generator = torch.Generator(self.flat.data.device).manual_seed(seed)
        self.passes = Passes()
        self.steps = 0
        self.skipped = 0
        self._skipped_in_a_row = 0

    def step(self, batch: Batch | InputGroup, loss: Loss) -> StepReport:
        """Train on one batch.

        Args:
            batch: an :class:`InputGroup`, or several. A task that none of them has a label for
                takes no part in the step.
            loss: ``loss(objective, prediction, target)``, a scalar.

        Raises:
            DivergedError: too many steps in a row had a non-finite loss or gradient.
        """
        groups = [batch] if isinstance(batch, InputGroup) else batch
        problem = StepProblem(
            self.model, self.flat, groups, self.objectives, loss, self.generator, self.passes
        )
        report = train_step(
            problem,
            self.methods,
            self.wrapper,
            self.optimizer,
            scale=self.scale,
            clip_norm=self.clip_norm,
        )
        self.steps += 1
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if report.skipped else 0
        self.skipped += bool(report.skipped)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(f"{MAX_SKIPPED_IN_A_ROW} steps in a row skipped: {report.skipped}")
        return report

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        """Tell the methods an epoch's mean training losses (K,)."""
        for method in self.methods:
            method.on_epoch_end(epoch, mean_losses)

    def diagnostics(self) -> dict[str, float]:
        """What the methods have to report, summed over their copies."""
        total: dict[str, float] = {"skipped_steps": self.skipped}
        for method in self.methods:
            for name, value in method.diagnostics().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def state_dict(self) -> dict[str, Any]:
        """State of optimizer, methods, wrapper and noise; the model's is its own."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "methods": [method.state_dict() for method in self.methods],
            "wrapper": self.wrapper.state_dict(),
            "generator": self.generator.get_state(),
            "passes": vars(self.passes).copy(),
            "steps": (self.steps, self.skipped, self._skipped_in_a_row),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.wrapper.load_state_dict(state["wrapper"])
        self.generator.set_state(state["generator"].cpu())
        self.passes = Passes(**state["passes"])
        self.steps, self.skipped, self._skipped_in_a_row = state["steps"]
