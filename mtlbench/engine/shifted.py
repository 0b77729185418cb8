"""Views of gradients each taken at a point of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.engine.columns import Columns
from mtlbench.engine.rows import GradientRows
from mtlbench.engine.views import Forward, PlainView, Source, backward, sharded
from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    GradientView,
    GramianPoint,
    HeadPolicy,
    Move,
    Update,
)
from mtlbench.interfaces.gradients import product, scaled


class ShiftedView(GradientView):
    """Row k is the gradient of loss k where ``move(k)`` leads, less the gradient that ``base`` has
    of it, if there is one; kept only if asked for."""

    def __init__(
        self,
        problem: Source,
        losses: Tensor,
        move: Callable[[int], Sequence[Move]],
        base: PlainView | None = None,
    ) -> None:
        self._problem, self._move, self._base = problem, move, base
        self.losses, self.generator = losses, problem.generator
        self._points: Sequence[Sequence[int]] = [[k] for k in range(self.n_tasks)]
        self._columns: Columns | None = None
        self._rows: GradientRows | None = None
        self._heads: Sequence[Tensor] | None = None

    def fetch(self, *tensors: Tensor) -> list[NDArray[np.float64]]:
        return self._problem.fetch(*tensors)

    @contextmanager
    def _at(self, point: int) -> Iterator[Forward]:
        """A forward pass of the point's tasks there."""
        problem = self._problem
        with problem.flat.shifted(*self._move(point)):
            yield problem.forward([problem.objectives[k] for k in self._points[point]])

    def _differentiate(self, point: int, rows: GradientRows, row: int | None = None) -> None:
        """Add row k to ``rows.rows[k]``, or to ``row`` of them, and its head's gradient to
        ``rows.heads[k]``, for the point's tasks."""
        tasks = self._points[point]
        with self._at(point) as graph:
            for k, loss in zip(tasks, graph.apart, strict=True):
                rows.bind(k if row is None else row)
                backward(loss, self._problem.passes, keep=k != tasks[-1])
        if self._base is not None:
            for k in tasks:
                own = self._base.row(k)[0]
                if self._problem.ranks.rank == 0:  # it is of all processes: subtract it once
                    rows.rows[k if row is None else row].sub_(own)

    def _dense(self) -> GradientRows:
        if self._rows is None:
            rows = None if self._base is None else self._base.unseen_rows()
            if self._base is None or rows is None:
                rows = self._every_row()
                self._heads = rows.heads
            else:  # a row of the base is of no use once it is subtracted
                self._heads = self._replace(rows)
                self._base.forget_rows()
            self._rows = rows
        return self._rows

    def _every_row(self) -> GradientRows:
        rows, ranks = self._problem.flat.rows(self.n_tasks), self._problem.ranks
        for point, tasks in enumerate(self._points):
            self._differentiate(point, rows)
            for k in tasks if self.n_tasks > 1 else ():
                ranks.start_(rows.rows[k])
        ranks.start_(rows.tail)
        ranks.finish()
        return rows

    def _replace(self, rows: GradientRows) -> Sequence[Tensor]:
        """Write each row over the base's, where nobody but this view reads it; the heads'
        gradients."""
        one = self._problem.flat.rows(1)
        for k in range(self.n_tasks):
            one.rows[0].zero_()
            self._differentiate(k, one, 0)
            self._problem.ranks.sum_(one.rows[0])
            rows.rows[k].copy_(one.rows[0])
        self._problem.ranks.sum_(one.buffer[len(one.rows[0]) :])
        return one.heads

    def jacobian(self) -> Tensor:
        return self._dense().jacobian

    def gramian(self, at: GramianPoint = "shared") -> Tensor:
        if at == "shared" and self._rows is None and sharded(self._problem):
            return self._own_columns().gramian()
        return super().gramian(at)

    def _own_columns(self) -> Columns:
        """This process's columns of the rows: a pass a row, once."""
        if self._columns is None:
            columns = Columns(self._problem.flat, self._problem.ranks, self.n_tasks)
            for point, tasks in enumerate(self._points):
                with self._at(point) as graph:
                    for k, loss in zip(tasks, graph.apart, strict=True):
                        columns.bind()
                        backward(loss, self._problem.passes, keep=k != tasks[-1])
                        columns.send(k)
            self._columns = columns.complete()
            if self._base is not None:
                columns.own.sub_(self._base.columns().own)
        return self._columns

    def head_grads(self) -> Sequence[Tensor]:
        if self._rows is None and self._columns is not None:
            return self._columns.heads
        return self._dense().heads if self._heads is None else self._heads

    def representation_jacobian(self) -> Tensor:
        raise UsageError("gradients at K points have no common trunk output; use at='shared'")

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        w = weights.detach()
        if self._rows is not None:
            return product(w, self._rows.jacobian, self.head_grads(), heads)
        if self._columns is not None:
            return self._columns.combine(w, heads)
        one, total = self._problem.flat.rows(1), self._problem.flat.rows(1).rows[0]
        for k in range(self.n_tasks):
            one.rows[0].zero_()
            self._differentiate(k, one, 0)
            total.addcmul_(one.rows[0], w[k])
        self._problem.ranks.sum_(total, one.buffer[len(total) :])
        self._heads = one.heads
        return Update(total, scaled(one.heads, w, heads), w)


class JointView(ShiftedView):
    """A :class:`ShiftedView` whose points are those of several tasks each: a forward pass a point,
    and under :meth:`combine` a backward pass a point."""

    def __init__(
        self,
        problem: Source,
        losses: Tensor,
        move: Callable[[int], Sequence[Move]],
        points: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(problem, losses, move)
        self._points = points

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        w = weights.detach()
        if self._columns is not None:
            return super().combine(w, heads)
        if self._rows is not None or (heads == "unit" and bool((w != 1).any())):
            return product(w, self.jacobian(), self.head_grads(), heads)
        flat, last = self._problem.flat, len(self._points) - 1
        rows = flat.rows(1)
        summed = flat.slices.summed(rows, self._problem.ranks)
        for point, tasks in enumerate(self._points):
            with self._at(point) as graph, summed if point == last else nullcontext():
                rows.bind()
                total = (torch.stack([w[k] for k in tasks]) * graph.losses).sum()
                backward(total, self._problem.passes, graph.groups)
        return Update(rows.rows[0], rows.heads, w)
