"""Any method with any wrapper, for a training loop of one's own."""

from __future__ import annotations

import logging
import math
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.engine.accumulate import AccumulatedProblem
from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.inputs import (
    as_groups,
    check_model,
    check_optimizer,
    parameters_of,
)
from mtlbench.engine.numerics import Numerics, Precision, check_autocast, without_autocast
from mtlbench.engine.observe import ObservedProblem, StepLog
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.engine.step import NO_LABEL, StepReport, train_step
from mtlbench.engine.stream import RowsMode
from mtlbench.errors import DivergedError, UsageError
from mtlbench.interfaces import (
    Batch,
    Ignored,
    InputGroup,
    Loss,
    MultiTaskModel,
    Passes,
    Protocol,
    SharpnessWrapper,
    WeightingMethod,
)
from mtlbench.registry import METHODS, SHARPNESS, Spec

logger = logging.getLogger(__name__)


MAX_SKIPPED_IN_A_ROW = 20
ROWS: tuple[str, ...] = typing.get_args(RowsMode)
SCALES: tuple[str, ...] = typing.get_args(typing.get_type_hints(Protocol)["gradient_scale"])


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
    if not isinstance(method, str | Spec):
        raise UsageError(f"the method must be a name with options, not {method!r}")
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


def _check_parts(method: WeightingMethod) -> None:
    """Refuse methods that need more of a batch than its gradients.

    Raises:
        UsageError: this is one.
    """
    if method.at == "representation":
        raise UsageError(
            f"{method.info.name}:at=representation needs all of a batch at the trunk's output at "
            "once; take at=shared, or accumulate=1"
        )
    if method.info.further is not None:
        raise UsageError(f"{method.info.name} looks at further batches: take accumulate=1")


class Stepper:
    """Any weighting method with any sharpness wrapper, for a training loop of one's own.

    >>> stepper = Stepper(model, optimizer, method="fairgrad:alpha=2", sharpness="samo")
    >>> for batch in loader:
    ...     stepper.step(batch, loss)

    A method that looks at further batches in each step (``stepper.further`` says which) is given
    them beside the batch: ``stepper.step(batch, loss, [next(others)])``.

    A parameter that the optimizer has beside the model's is one of the loss (a temperature): its
    gradient is that of the losses at the parameters, weighted as the method weights heads, or
    their sum where it leaves heads alone or has no weights.

    A step without any label is none: it is counted in ``unlabelled``, and not in ``skipped``.

    Args:
        model: on its final device. Its trainable parameters are moved into one buffer; it goes on
            working as before, also with other numbers in them (``load_state_dict``, ``p.data =``).
            Once layers are frozen, unfrozen, added or replaced, build a new Stepper.
        optimizer: of the model's parameters, and of the loss's if it has any; never call its
            ``zero_grad``. One whose ``step`` needs a closure (LBFGS) will not do.
        method: name and options (``"cagrad:c=0.4"``) of a weighting method.
        sharpness: name and options of a wrapper; by default the one that changes nothing.
        objectives: the task names, in order; all heads of the model by default.
        seed: of the perturbation noise.
        gradient_scale: see :class:`~mtlbench.interfaces.Protocol`.
        clip_norm: see :class:`~mtlbench.interfaces.Protocol`.
        ignore: which integers of the targets are no labels, for all objectives or by objective,
            see :data:`~mtlbench.interfaces.Ignore`. By default the negative ones, with a warning
            where these are more than half, or every -1 among labels of -1 and 1.
        precision: see :class:`~mtlbench.engine.numerics.Numerics`. By default as it is around the
            step, where an ``autocast`` to bfloat16 is fine and one to float16 is refused.
        channels_last: whether images go through the network with their channels innermost.
        accumulate: in how many parts a batch goes through the network, for the memory of one:
            losses are averaged and gradients summed over the parts, and there is one aggregate.
        rows: whether the K gradients are held as a whole, (K, P), where a method asks for no more
            than their Gramian: "whole"; "streamed" holds a part of them at a time, for one backward
            pass more; "auto" does so for 8 tasks or more that share their inputs, from 128 MiB on;
            "sharded" gives each of several processes a part of the columns, and sends (K + 1) P
            numbers instead of 2 K P. The numbers differ by rounding.
        ranks: the processes that train together, each with its part of every batch: a step is that
            of one process with the whole batch. All are given the same here, and the network starts
            with the numbers of the first. A loss that is no mean over examples says what it is, see
            :class:`~mtlbench.interfaces.SizedLoss`.

    Raises:
        UsageError: an unknown name, or an option of the wrong type or range; or the processes were
            given different things.
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
        ignore: Ignored = None,
        precision: Precision | None = None,
        channels_last: bool = False,
        accumulate: int = 1,
        rows: RowsMode = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        check_model(model, objectives)
        check_optimizer(optimizer)
        if gradient_scale not in SCALES:
            valid = ", ".join(SCALES)
            raise UsageError(f"unknown gradient_scale {gradient_scale!r}; valid: {valid}")
        if rows not in ROWS:
            raise UsageError(f"unknown rows {rows!r}; valid: {', '.join(ROWS)}")
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise UsageError(f"clip_norm={clip_norm} must be positive, or None for no bound")
        if ranks.size > 1 and accumulate > 1:
            raise UsageError("several processes and accumulate > 1 do not go together: take one")
        if ranks.size > 1 and rows == "streamed":
            raise UsageError("several processes take rows='sharded', or 'whole', or 'auto'")
        if ranks.size == 1 and rows == "sharded":
            raise UsageError("rows='sharded' is for several processes: take 'streamed' on one")
        self.model, self.optimizer, self.clip_norm, self.ranks = model, optimizer, clip_norm, ranks
        self.ignore = ignore
        self._all = objectives is None
        self.objectives = list(model.heads) if objectives is None else list(objectives)
        self.methods, self.wrapper = build_pair(method, sharpness, len(self.objectives))
        self.further = self.methods[0].info.further
        """Which batches a step needs beside the one that it trains on; None if it needs none."""
        self.numerics = Numerics.of(
            precision=precision, channels_last=channels_last, accumulate=accumulate
        )
        if accumulate > 1:
            _check_parts(self.methods[0])
        K = len(self.objectives)
        to_sum = gradient_scale == "sum" and self.methods[0].info.scale == "mean"
        self.scale = float(K) if to_sum else 1.0
        self.flat = FlatParameters(model, self.objectives, rows)
        self.numerics.check(self.flat.data.device)
        for part in (*self.methods, self.wrapper):
            part.to(self.flat.data.device)
        self.generator = torch.Generator(self.flat.data.device).manual_seed(seed)
        self.passes = Passes()
        self.steps = 0
        self.skipped = 0
        self.unlabelled = 0
        self.unlooked = 0
        """Steps in which the further batches lacked a task's label, or a single task took part."""
        self._skipped_in_a_row = 0
        self._asked: dict[str, bool] = {}
        self._n_held, self._others = 0, list[nn.Parameter]()
        names = {id(p): name for name, p in model.named_parameters()}
        held = {id(p) for p in parameters_of(optimizer)}
        idle = [names[id(p)] for p in self.flat.params if held and id(p) not in held]
        if idle:
            logger.warning("the optimizer does not have %s: nothing moves them", ", ".join(idle))
        if ranks.size > 1:
            self._begin_together(f"{method} and {sharpness}", seed)

    def _begin_together(self, names: str, seed: int) -> None:
        """Hold the processes to one request, and take the first one's network."""
        shapes = [f"{name} {tuple(p.shape)}" for name, p in self.model.named_parameters()]
        rates = [group.get("lr") for group in self.optimizer.param_groups]
        self.ranks.agree(
            {
                "method and wrapper": names,
                "objectives": self.objectives,
                "parameters": shapes,
                "optimizer": f"{type(self.optimizer).__name__} of lr {rates}",
                "seed": seed,
                "scale and clip_norm": (self.scale, self.clip_norm),
                "ignore": self.ignore,
                "version of torch": torch.__version__,
            }
        )
        self.flat.begin_step()
        frozen = [p.detach() for p in self.model.parameters() if not p.requires_grad]
        self.ranks.take_first_([self.flat.data, *frozen, *self.model.buffers()])

    @property
    def n_further(self) -> int:
        """How many batches a step needs beside the one that it trains on."""
        return self.further.count if self.further else 0

    @property
    def coming_passes(self) -> Passes:
        """What the next step costs, if all tasks take part and share their inputs."""
        K, info = len(self.objectives), self.methods[0].info
        return self.wrapper.passes(K, info.passes(K)) + info.looks(K) * len(self.methods)

    def step(
        self,
        batch: Batch | InputGroup,
        loss: Loss,
        further: Sequence[Batch | InputGroup] = (),
        *,
        log: StepLog | None = None,
    ) -> StepReport:
        """Train on one batch.

        Args:
            batch: an :class:`InputGroup`, or several. A task that none of them has a label for
                takes no part in the step.
            loss: ``loss(objective, prediction, target)``, a scalar.
            further: ``stepper.n_further`` batches, for a method that looks at them.
            log: looks on, for instance a :class:`~mtlbench.training.gradients.GradientLog`; the
                step is the same with it, and its passes are not counted as the step's.

        Raises:
            UsageError: the batch, the loss, or what became of the model, is of no use; or further
                batches are too few or too many; or there is a log, and ``accumulate``.
            DivergedError: too many steps in a row had a non-finite loss or gradient.
        """
        if log is not None and self.ranks.size > 1:
            raise UsageError("a log looks at one process: leave it out, or take one")
        if self._all and list(self.model.heads) != self.objectives:
            now, then = ", ".join(self.model.heads), ", ".join(self.objectives)
            raise UsageError(f"the heads were {then} and are {now}: build a new Stepper")
        self._check_further(further)
        check_autocast(self.flat.data.device)
        kind: Callable[..., BatchProblem] = BatchProblem
        if self.numerics.accumulate > 1:
            if log is not None:
                raise UsageError("a log looks at whole batches: take accumulate=1")
            kind = AccumulatedProblem
        elif log is not None and log.wants(self.steps):
            kind = partial(ObservedProblem, log, self.steps)
        problem = kind(
            self.model,
            self.flat,
            _groups(batch),
            self.objectives,
            loss,
            self.generator,
            self.passes,
            self.ignore,
            self._beside(),
            further=[_groups(each) for each in further],
            optimizer=self.optimizer,
            numerics=self.numerics,
            ranks=self.ranks,
        )
        self.unlooked += self.further is not None and not problem.can_look
        for doubt in problem.labels.doubts(self._asked):
            logger.warning(doubt)
        device = self.flat.data.device
        with self.numerics.settings(device), without_autocast(device):
            report = train_step(
                problem,
                self.methods,
                self.wrapper,
                self.optimizer,
                scale=self.scale,
                clip_norm=self.clip_norm,
            )
        self.steps += 1
        if report.skipped == NO_LABEL:
            self.unlabelled += 1
            return report
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if report.skipped else 0
        self.skipped += bool(report.skipped)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(f"{MAX_SKIPPED_IN_A_ROW} steps in a row skipped: {report.skipped}")
        return report

    def _check_further(self, further: Sequence[Batch | InputGroup]) -> None:
        if len(further) == self.n_further:
            return
        name, given = self.methods[0].info.name, len(further)
        if not self.further:
            raise UsageError(f"{name} looks at no further batches, step() was given {given}")
        raise UsageError(
            f"{name} looks at {self.n_further} further batches a step, {self.further.where_from}; "
            f"step() was given {given}: call step(batch, loss, further)"
        )

    def _beside(self) -> list[nn.Parameter]:
        """Trainable parameters of the optimizer that are not the model's."""
        held = parameters_of(self.optimizer)
        if len(held) != self._n_held:
            own = {id(p) for p in self.model.parameters()}
            self._others = [p for p in held if id(p) not in own]
            self._n_held = len(held)
        return [p for p in self._others if p.requires_grad]

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        """Tell the methods an epoch's mean training losses (K,)."""
        for method in self.methods:
            method.on_epoch_end(epoch, mean_losses)

    def diagnostics(self) -> dict[str, float]:
        """What the methods have to report, summed over their copies."""
        total: dict[str, float] = {"skipped_steps": self.skipped}
        if self.unlabelled:
            total["unlabelled_steps"] = self.unlabelled
        if self.unlooked and len(self.objectives) > 1:
            total["unlooked_steps"] = self.unlooked
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
            "steps": (self.steps, self.skipped, self._skipped_in_a_row, self.unlabelled),
            "unlooked": self.unlooked,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        self.wrapper.load_state_dict(state["wrapper"])
        self.generator.set_state(state["generator"].cpu())
        self.passes = Passes(**state["passes"])
        self.steps, self.skipped, self._skipped_in_a_row, *rest = state["steps"]
        self.unlabelled = sum(rest)  # not in checkpoints of before
        self.unlooked = state.get("unlooked", 0)


def _groups(batch: Batch | InputGroup) -> list[InputGroup]:
    return [batch] if isinstance(batch, InputGroup) else as_groups(batch)
