"""A step whose gradients are known and the same everywhere, for methods that look beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    GradientView,
    Move,
    Parameters,
    PointView,
    Shift,
    StepProblem,
    Update,
    WeightingMethod,
)
from mtlbench.testing.families import KnownView
from mtlbench.testing.networks import objectives

RATE = 0.1
"""Learning rate of the optimizer that there would be."""


def looked(method: WeightingMethod, view: KnownView) -> KnownView:
    """The view, once the method has had the look that it asks for: every further batch is the
    step's own."""
    further = method.info.further
    if further is not None and view.n_tasks > 1:
        method.look(KnownProblem(view, further.count))
    return view


class KnownParameters(Parameters):
    """Zeros, for the gradients of a view."""

    def __init__(self, view: KnownView) -> None:
        sizes = [view.jacobian().shape[1], *map(len, view.head_grads())]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.shared, *self.heads = (slice(e - n, e) for n, e in zip(sizes, ends, strict=True))
        self.data = view.losses.new_zeros(ends[-1])
        self.layer_names, self.layer_sizes = ["shared"], sizes[:1]

    @contextmanager
    def shifted(self, *moves: Move) -> Iterator[Shift]:
        def shift(*moves: Move) -> None:
            for segment, direction, length in moves:
                self.data[segment] = direction * length

        try:
            shift(*moves)
            yield shift
        finally:
            self.data.zero_()

    def reuse_rows(self) -> None:
        pass

    def layer_norms(self, direction: Tensor) -> Tensor:
        return torch.stack([direction.norm()])

    def scale_layers_(self, direction: Tensor, factors: Tensor) -> Tensor:
        return direction.mul_(factors)


class KnownPoint(KnownView, PointView):
    """Known gradients, also one by one."""

    def row(self, k: int) -> tuple[Tensor, Tensor]:
        return self.jacobian()[k], self.head_grads()[k]


class KnownProblem(StepProblem):
    r"""Losses that are linear: :math:`L_k + g_k^\top \theta`, at :math:`\theta = 0`.

    Args:
        view: the losses and gradients.
        further: how many further batches there are.
    """

    def __init__(self, view: KnownView, further: int = 0) -> None:
        self.flat = KnownParameters(view)
        self.generator = view.generator
        self.objectives = objectives(view.n_tasks)
        self._known = view
        self.further = [self] * further

    def losses(self, only: Sequence[str] | None = None) -> Tensor:
        there, view = self.flat.data, self._known
        heads = [there[s] @ g for s, g in zip(self.flat.heads, view.head_grads(), strict=True)]
        every: Tensor = view.losses + view.jacobian() @ there[self.flat.shared] + torch.stack(heads)
        return every if only is None else every[[self.objectives.index(name) for name in only]]

    def evaluate(self, only: Sequence[str] | None = None) -> Tensor:
        return self.losses(only)

    def ahead(self, update: Update, *, bare: bool = False) -> Update:
        return Update(-RATE * update.shared, [-RATE * head for head in update.heads])

    def evaluation_mode(self) -> AbstractContextManager[None]:
        return nullcontext()

    def view(self, losses: Tensor | None = None, *, keep: bool = False) -> KnownPoint:
        known = self._known
        losses = self.losses() if losses is None else losses
        heads = [head.clone() for head in known.head_grads()]
        return KnownPoint(losses, known.jacobian().clone(), heads, self.generator)

    def view_at(
        self,
        losses: Tensor,
        move: Callable[[int], Sequence[Move]],
        base: PointView | None = None,
    ) -> GradientView:
        if base is not None:
            raise UsageError("gradients that are the same everywhere leave nothing to subtract")
        return self.view(losses)

    def view_at_points(
        self,
        losses: Tensor,
        points: Sequence[Sequence[int]],
        move: Callable[[int], Sequence[Move]],
    ) -> GradientView:
        return self.view(losses)
