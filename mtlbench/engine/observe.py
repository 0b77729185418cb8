"""A step that somebody looks on at: the same numbers, and what there is to tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.views import Forward, PlainView
from mtlbench.interfaces import Passes


class StepLog(Protocol):
    """What ``stepper.step(..., log=...)`` takes."""

    def wants(self, step: int) -> bool:
        """Whether to look on at this step, from 0; one that is not wanted costs nothing."""

    def add(self, step: int, problem: ObservedProblem, weights: Tensor | None) -> None:
        """Hear of a step that was computed and will be taken; the parameters are where they were.

        Args:
            step: its number.
            problem: what can be asked about it.
            weights: of the tasks that take part, (K',), as a step's report has them.
        """


class ObservedProblem(BatchProblem):
    """A problem that remembers what was done in its step.

    Args:
        log: is told of the step.
        step: its number.
        args: of :class:`BatchProblem`.
        how: likewise.
    """

    def __init__(self, log: StepLog, step: int, *args: Any, **how: Any) -> None:
        self._log, self._step = log, step
        self._here: PlainView | None = None
        self.displacements: dict[str, Tensor] = {}
        """By objective, how far from the parameters the trunk was where its gradient was taken
        last; nothing for one whose gradient was taken at them."""
        self.notes: dict[str, dict[str, Tensor]] = {}
        """By name and objective, what the wrapper said of itself."""
        self.cost = Passes()
        """Of looking on; no part of the step's own passes."""
        super().__init__(*args, **how)

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        """As :meth:`BatchProblem.forward`; one with a graph elsewhere is where gradients are
        taken."""
        if self._own and self.flat.point and torch.is_grad_enabled():
            length = self.flat.displacement().norm()
            self.displacements |= dict.fromkeys(only or self.objectives, length)
        return super().forward(only)

    def view(self, losses: Tensor | None = None, *, keep: bool = False) -> PlainView:
        """As :meth:`BatchProblem.view`."""
        view = super().view(losses, keep=keep)
        if self._own and not self.flat.point and self._here is None:
            self._here = view
        return view

    def note(self, name: str, values: Tensor, only: Sequence[str] | None = None) -> None:
        """See :meth:`StepProblem.note`."""
        own = values.detach().mean(0) if values.dim() > 1 else values.detach()
        objectives = self.objectives if only is None else only
        self.notes.setdefault(name, {}).update(zip(objectives, own.unbind(), strict=True))

    def before_move(self, weights: Tensor | None) -> None:
        """See :meth:`BatchProblem.before_move`."""
        self._log.add(self._step, self, weights)

    def gradients(self) -> Tensor:
        """Task gradients at the parameters, (K', P): no pass if the step has asked for them, else
        K' backward passes and, where its graph is used up, a forward pass; see :attr:`cost`."""
        of_step, self.passes = self.passes, self.cost
        try:
            view = self.view() if self._here is None else self._here
            return view.jacobian()
        finally:
            self.passes = of_step
