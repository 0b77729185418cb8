"""A weighting method on trial: its updates on short runs, and how errors are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mtlbench.interfaces import MethodInfo, Update, WeightingMethod
from mtlbench.registry import Spec
from mtlbench.testing.families import Case, KnownView
from mtlbench.testing.known import looked
from mtlbench.testing.steps import EPOCH, stepper
from mtlbench.training.stepper import Stepper

CANCELLED = 1e-3
"""Length of an update, relative to what is usual, below which it is next to nothing."""


@dataclass(frozen=True)
class MethodSubject:
    """A weighting method to be checked."""

    spec: Spec
    cls: type[WeightingMethod]
    options: dict[str, Any]
    runs: dict[str, list[Update]] = field(default_factory=dict)

    @property
    def info(self) -> MethodInfo:
        return self.cls.info

    def build(self, K: int) -> WeightingMethod:
        return self.cls(K, **self.options)

    def stepper(self, K: int, **how: Any) -> Stepper:
        return stepper(self.spec, None, K, **how)

    def run(self, run: Sequence[Case]) -> list[Update]:
        """Updates of a fresh method on a run in double precision; cached."""
        name = run[0].name
        if name not in self.runs:
            self.runs[name] = updates(self.build(run[0].n_tasks), run)
        return self.runs[name]


def step(method: WeightingMethod, case: Case, index: int, view: KnownView | None = None) -> Update:
    """One step: the update is a copy, the losses then fall by a tenth, and an epoch ends."""
    view = case.view() if view is None else view
    update = copied(method.aggregate(looked(method, view)))
    after = 0.9 * view.losses
    method.after_step(lambda: after)
    method.on_epoch_end(EPOCH * index, view.losses.clone())
    return update


def updates(
    method: WeightingMethod, run: Sequence[Case], view: Callable[[Case], KnownView] = Case.view
) -> list[Update]:
    """The updates of a run."""
    return [step(method, case, index, view(case)) for index, case in enumerate(run)]


def copied(update: Update) -> Update:
    """A copy that shares no memory with the view."""
    weights = None if update.weights is None else update.weights.clone()
    return Update(update.shared.clone(), [head.clone() for head in update.heads], weights)


def vectors(update: Update) -> list[Tensor]:
    """All tensors of an update."""
    return [update.shared, *update.heads, *([] if update.weights is None else [update.weights])]


def summed(update: Update, J: Tensor) -> float:
    """The sizes of what was summed into an update: what rounding errors are relative to."""
    norms = J.norm(dim=1)
    return float(norms.sum() if update.weights is None else update.weights.to(norms).abs() @ norms)


def length(subject: MethodSubject, update: Update, J: Tensor) -> float:
    """Of the update; of one that is next to nothing, a thousandth of what is usual: the scale that
    ``info`` declares, or else the sizes of what was summed."""
    norms = J.norm(dim=1)
    scales = {"mean": norms.mean(), "sum": norms.sum()}
    usual = float(scales.get(subject.info.scale, summed(update, J)))
    return max(float(update.shared.norm()), CANCELLED * usual)


def relative(error: Tensor | float, size: float) -> float:
    """``error / size``, and 0 / 0 is 0."""
    error = float(error)
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))
