"""The view of a step's gradients at one point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.engine.columns import Columns
from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.reduce import Ranks
from mtlbench.engine.rows import GradientRows
from mtlbench.engine.stream import NotStreamableError
from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    GramianPoint,
    HeadPolicy,
    Passes,
    PointView,
    Update,
)
from mtlbench.interfaces.gradients import inner_products, product, scaled


class NonFiniteError(ArithmeticError):
    """A loss of the step is NaN or infinite: there is nothing to learn from it."""


@dataclass
class Forward:
    """A forward pass of K' objectives.

    Args:
        losses: (K',), with the graph of them all: for a backward pass through all heads at once.
            Of several processes each has its part of them, and the sum is the loss.
        features: for each of them the trunk's output tensors.
        opaque: whether an output of the trunk hides its tensors (it is no tensor, sequence or
            mapping).
        groups: how many input groups there are, each with a graph of the trunk of its own.
        separate: makes the same losses, each with a graph through its own head alone.
    """

    losses: Tensor
    features: list[list[Tensor]]
    opaque: bool
    groups: int
    separate: Callable[[], Sequence[Tensor]]

    @cached_property
    def apart(self) -> Sequence[Tensor]:
        """K' scalars: a backward pass of one runs through its own head, and through the trunk where
        its own inputs went. One entry of ``losses`` would send zeros through all the others."""
        return self.separate()


class Source(Protocol):
    """The problem whose gradients are viewed."""

    flat: FlatParameters
    ranks: Ranks
    generator: torch.Generator
    passes: Passes
    objectives: Sequence[str]
    first_losses: Tensor | None

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        """A forward pass of these objectives, by default of all."""

    def hold_finite(self, losses: Tensor) -> None:
        """Refuse losses that are NaN or infinite, now or with what is fetched next."""

    def fetch(self, *tensors: Tensor) -> list[NDArray[np.float64]]:
        """Numbers on the host."""


def sharded(problem: Source) -> bool:
    """Whether each process has its columns of a Jacobian of which no more is asked."""
    return problem.ranks.size > 1 and problem.flat.streamer.mode == "sharded"


class PlainView(PointView):
    """All gradients at one point: nothing, one backward pass, or K of them, by demand.

    Where nothing but the Gramian is asked for of a large Jacobian, that is never whole: see
    :class:`~mtlbench.engine.stream.Streamer`. The weighted sum is then one backward pass more.
    """

    def __init__(
        self, problem: Source, losses: Tensor | None = None, *, keep: bool = False
    ) -> None:
        self._problem, self._point, self._keep = problem, problem.flat.point, keep
        self._ranks = problem.ranks
        self._graph: Forward | None = problem.forward()
        if not self._graph.losses.requires_grad:
            raise UsageError(
                "no loss has a gradient: a step must not run within torch.no_grad(), and losses "
                "must not be detached"
            )
        here, self._opaque = self._common(self._graph)
        problem.hold_finite(here)
        if problem.first_losses is None:
            problem.first_losses = here
        self.losses = here if losses is None else losses
        self.generator = problem.generator
        self._rows: GradientRows | None = None
        self._shown = False
        self._one: GradientRows | None = None
        self._in_one = -1
        self._gramian: Tensor | None = None
        self._columns: Columns | None = None
        self._streamed: GradientRows | None = None
        """Has the heads' gradients that a stream has found."""
        self._spare: GradientRows | None = None
        """The same, as long as its row is free."""
        self._representation: tuple[Tensor, list[Tensor]] | None = None

    def fetch(self, *tensors: Tensor) -> list[NDArray[np.float64]]:
        return self._problem.fetch(*tensors)

    def _common(self, graph: Forward) -> tuple[Tensor, bool]:
        """The losses, and whether the trunk's output is opaque anywhere."""
        losses, opaque = graph.losses.detach(), graph.opaque
        if self._ranks.size == 1:
            return losses, opaque
        found = self._ranks.sum(torch.cat([losses, losses.new_tensor([opaque])]))
        return found[:-1], bool(found[-1] > 0)

    def _take_graph(self, *, keep: bool) -> Forward:
        """The forward pass; made again if an earlier question has used it up."""
        if self._problem.flat.point != self._point:
            raise RuntimeError("a gradient view was used after the parameters left its point")
        graph = self._problem.forward() if self._graph is None else self._graph
        self._graph = graph if keep or self._keep else None
        return graph

    def _dense(self) -> GradientRows:
        if self._rows is None:
            rows = self._problem.flat.rows(self.n_tasks)
            losses = self._take_graph(keep=False).apart
            for k, loss in enumerate(losses):
                rows.bind(k)
                backward(loss, self._problem.passes, keep=k < len(losses) - 1)
                if len(losses) > 1:
                    self._ranks.start_(rows.rows[k])
            self._ranks.start_(rows.tail)
            self._ranks.finish()
            self._rows, self._graph = rows, None
        return self._rows

    def row(self, k: int) -> tuple[Tensor, Tensor]:
        """Gradient of loss k alone, (P,), and of its head: one backward pass, in a buffer that the
        next row overwrites; no pass where the Jacobian is known."""
        if self._rows is not None:
            return self._rows.rows[k], self._rows.heads[k]
        if self._one is None:
            self._one = self._problem.flat.rows(1)
        if self._in_one != k:
            self._one.zero_().bind()
            backward(self._take_graph(keep=True).apart[k], self._problem.passes, keep=True)
            self._ranks.sum_(self._one.tail)
            self._in_one = k
        return self._one.rows[0], self._one.heads[k]

    def _at_representation(self) -> tuple[Tensor, list[Tensor]]:
        """``(K, R)`` gradients at the trunk's output, where this process's examples are, and the
        heads' gradients."""
        if self._opaque:
            raise UsageError(
                "the trunk's output hides its tensors (it is no tensor, sequence or mapping); "
                "use at='shared'"
            )
        if self._representation is None:
            graph, flat = self._take_graph(keep=True), self._problem.flat
            known = {id(t): t for tensors in graph.features for t in tensors}
            rows, heads = [], []
            for k, params in enumerate(flat.head_params):
                features = graph.features[k]
                grads = _gradients(graph.apart[k], [*features, *params])
                own = {id(t): g for t, g in zip(features, grads, strict=False)}
                parts = [own.get(i, torch.zeros_like(t)).flatten() for i, t in known.items()]
                rows.append((torch.cat(parts) if parts else flat.data.new_zeros(0)).to(flat.data))
                pieces = [g.flatten() for g in grads[len(features) :]]
                heads.append(torch.cat(pieces) if pieces else flat.data.new_zeros(0))
            heads = self._sum_heads(heads)
            if flat.heads_apart:
                self._problem.passes.head_backward += self.n_tasks
            else:
                self._problem.passes.backward += self.n_tasks
            self._representation = torch.stack(rows), heads
        return self._representation

    def _sum_heads(self, heads: list[Tensor]) -> list[Tensor]:
        if self._ranks.size == 1:
            return heads
        return list(self._ranks.sum(torch.cat(heads)).split([len(own) for own in heads]))

    def jacobian(self) -> Tensor:
        self._shown = True
        return self._dense().jacobian

    def unseen_rows(self) -> GradientRows | None:
        """The rows that this view has made, if nobody was given them: who writes to them has to let
        the view forget them."""
        return None if self._shown else self._rows

    def forget_rows(self) -> None:
        """The rows are another's now."""
        self._rows = None

    def gramian(self, at: GramianPoint = "shared") -> Tensor:
        if at != "shared":  # each example has columns of its own, on one process
            return self._ranks.sum(inner_products(self._at_representation()[0]))
        if self._gramian is None and self._rows is None:
            shared = sharded(self._problem)
            self._gramian = self.columns().gramian() if shared else self._stream()
        if self._gramian is None:
            self._gramian = inner_products(self._dense().jacobian)
        return self._gramian

    def columns(self) -> Columns:
        """This process's columns of the Jacobian: K backward passes, once."""
        if self._columns is None:
            columns = Columns(self._problem.flat, self._ranks, self.n_tasks)
            losses = self._take_graph(keep=False).apart
            for k, loss in enumerate(losses):
                columns.bind()
                backward(loss, self._problem.passes, keep=k < len(losses) - 1)
                columns.send(k)
            self._columns, self._graph = columns.complete(), None
        return self._columns

    def _stream(self) -> Tensor | None:
        """The Gramian without a whole Jacobian; None if this is not wanted, or not possible."""
        if self._ranks.size > 1:
            return None  # products are of rows that are summed
        flat, streamer = self._problem.flat, self._problem.flat.streamer
        graph = self._take_graph(keep=True)
        if self._keep or not streamer.wanted(self.n_tasks, graph.groups):
            return None  # a view that is kept is asked for its rows
        try:
            stream = streamer.stream(graph.apart, flat.head_params)
        except NotStreamableError as reason:
            streamer.log(reason)
            return None
        self._streamed = self._spare = flat.rows(1)
        self._problem.passes.backward += sum(loss.requires_grad for loss in graph.apart)
        return stream.gramian(self._streamed.head_views)

    def head_grads(self) -> Sequence[Tensor]:
        if self._rows is None and self._columns is not None:
            return self._columns.heads
        if self._rows is None and self._streamed is not None:
            return self._streamed.heads
        if self._rows is None and self._representation is not None:
            return self._representation[1]
        return self._dense().heads

    def representation_jacobian(self) -> Tensor:
        if self._ranks.size > 1:
            raise UsageError(
                "gradients at the trunk's output lie on several processes, each with the columns "
                "of its examples: ask for gramian('representation')"
            )
        return self._at_representation()[0]

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        w, flat = weights.detach(), self._problem.flat
        if self._rows is not None:
            J = self._rows.jacobian
            shared = torch.mv(J.T, w.to(J), out=flat.rows(1).rows[0])
            return Update(shared, scaled(self._rows.heads, w, heads), w)
        if self._columns is not None:
            return self._columns.combine(w, heads)
        if self._streamed is not None:
            return self._combine_streamed(w, self._streamed.heads, heads)
        visible = flat.trunk_only and not self._opaque
        if visible and (heads == "unit" or self._representation is not None):
            return self._combine_at_representation(w, heads)
        if heads == "unit" and bool((w != 1).any()):
            return product(w, self.jacobian(), self.head_grads(), heads)
        rows = flat.rows(1)
        rows.bind()
        graph = self._take_graph(keep=False)
        with flat.slices.summed(rows, self._ranks):
            backward((w * graph.losses).sum(), self._problem.passes, graph.groups, keep=self._keep)
        return Update(rows.rows[0], rows.heads, w)

    def _combine_streamed(self, w: Tensor, own: Sequence[Tensor], heads: HeadPolicy) -> Update:
        """One weighted backward pass; the gradients of the heads' parameters are known."""
        flat, rows, self._spare = self._problem.flat, self._spare, None
        rows = flat.rows(1) if rows is None else rows
        rows.bind()
        graph = self._take_graph(keep=False)
        total = (w * graph.losses).sum()
        total.backward(inputs=flat.shared_params, retain_graph=self._keep)
        self._problem.passes.backward += graph.groups
        return Update(rows.rows[0], scaled(own, w, heads), w)

    def _combine_at_representation(self, w: Tensor, heads: HeadPolicy) -> Update:
        """Head gradients one by one, then a single backward pass through the trunk."""
        at_output, own = self._at_representation()
        graph = self._take_graph(keep=False)
        features = list({id(t): t for tensors in graph.features for t in tensors}.values())
        pieces = (w @ at_output).split([t.numel() for t in features])
        rows = self._problem.flat.rows(1)
        rows.bind()
        if features:  # other processes may have all examples of these tasks
            torch.autograd.backward(
                features,
                [piece.view_as(t).to(t) for piece, t in zip(pieces, features, strict=True)],
                retain_graph=self._keep,
            )
        self._ranks.sum_(rows.rows[0])
        self._problem.passes.backward += graph.groups
        return Update(rows.rows[0], scaled(own, w, heads), w)


def backward(loss: Tensor, passes: Passes, groups: int = 1, *, keep: bool = False) -> None:
    """One backward pass, counted as one through the trunk's graph of each input group; none where
    the loss depends on no parameter."""
    if loss.requires_grad:
        loss.backward(retain_graph=keep)
        passes.backward += groups


def _gradients(loss: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor]:
    if not loss.requires_grad or not of:
        return [torch.zeros_like(t) for t in of]
    return torch.autograd.grad(loss, of, retain_graph=True, materialize_grads=True)
