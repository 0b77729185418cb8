"""Any method with any wrapper, for a training loop of one's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.step import StepReport, train_step
from mtlbench.errors import DivergedError, UsageError
from mtlbench.interfaces import (
    Batch,
    InputGroup,
    Loss,
    MultiTaskModel,
    Passes,
    SharpnessWrapper,
    WeightingMethod,
)
from mtlbench.registry import METHODS, SHARPNESS, Spec

logger = logging.getLogger(__name__)


MAX_SKIPPED_IN_A_ROW = 20


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
        problem = BatchProblem(
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
