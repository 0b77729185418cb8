"""Gradient buffers with the parameters' layout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mtlbench.engine.stream import RowsMode, Streamer
from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel


class Layout:
    """How parameters lie in one vector ``[shared | head_1 | ... | head_K]``.

    Args:
        model: its trainable parameters are laid out; frozen ones are left alone.
        objectives: order of the heads; heads of other objectives are left alone.
        rows: when a Gramian is made without a whole Jacobian.

    Raises:
        UsageError: there is nothing to train, or parameters differ in dtype or device.
    """

    def __init__(
        self, model: MultiTaskModel, objectives: Sequence[str], rows: RowsMode = "auto"
    ) -> None:
        shared, heads = model.parameter_roles(objectives)
        self.shared_params = shared
        self.all_head_params = heads
        self.params = [*shared, *(p for head in heads for p in head)]
        _check_uniform(self.params)
        in_heads = {id(p) for p in model.heads.parameters()}
        in_trunk = {id(p) for p in model.shared.parameters()} - in_heads
        self.trunk_only = bool(shared) and all(id(p) in in_trunk for p in shared)
        """Whether every shared parameter acts through the trunk's output alone."""
        self.heads_apart = all(id(p) in in_heads for head in heads for p in head)
        """Whether no parameter of a head lies within the trunk."""
        sizes = [sum(p.numel() for p in group) for group in (shared, *heads)]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        segments = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.shared, self.all_heads = segments[0], segments[1:]
        self.size: int = ends[-1]
        names = {id(p): name for name, p in model.named_parameters()}
        self.layer_names = [names[id(p)] for p in shared]
        self.layer_sizes = [p.numel() for p in shared]
        self.streamer = Streamer(shared, rows)
        self.use(range(len(heads)))
        self.bound: tuple[GradientRows, int] | None = None
        """Where the parameters' ``grad`` was bound to in this step."""

    def use(self, tasks: Sequence[int]) -> None:
        """Let these tasks take part in the present step."""
        self.tasks = list(tasks)
        """Tasks that take part in the present step."""
        self.heads = [self.all_heads[k] for k in self.tasks]
        self.head_params = [self.all_head_params[k] for k in self.tasks]


class GradientRows:
    """A gradient buffer: ``n_rows`` gradients of the shared parameters and one of every head.

    Autograd writes into row k while it is bound; head k sees loss k only, so the heads need no
    rows. Heads that take no part in a step have no gradient in it.

    Attributes:
        jacobian: (n_rows, P).
        rows: the rows of ``jacobian``, each (P,).
        heads: one vector a head that takes part.
    """

    def __init__(self, layout: Layout, n_rows: int) -> None:
        P = layout.shared.stop
        self._layout = layout
        self.buffer = layout.params[0].new_zeros((n_rows - 1) * P + layout.size)
        offset = (n_rows - 1) * P
        self._jacobian = self.buffer[: n_rows * P].view(n_rows, P)
        self._rows = list(self._jacobian.unbind())
        self._heads = [self.buffer[s.start + offset : s.stop + offset] for s in layout.all_heads]
        self._row_views = [views(row, layout.shared_params) for row in self._rows]
        pairs = zip(self._heads, layout.all_head_params, strict=True)
        self._head_views = [views(own, params) for own, params in pairs]
        self._pointers = self._located()
        self.use(n_rows)

    def _located(self) -> list[int]:
        every = chain(*self._row_views, *self._head_views)
        return [self.buffer.data_ptr(), *(view.data_ptr() for view in every)]

    def intact(self) -> bool:
        """Whether all views still are views: somebody may have changed them in place."""
        return self._located() == self._pointers

    def use(self, n_rows: int) -> GradientRows:
        """Show the first ``n_rows`` rows, and the heads of the present step."""
        self.jacobian, self.rows = self._jacobian[:n_rows], self._rows[:n_rows]
        self.heads = [self._heads[k] for k in self._layout.tasks]
        return self

    @property
    def head_views(self) -> list[list[Tensor]]:
        """``heads`` in their parameters' shapes."""
        return [self._head_views[k] for k in self._layout.tasks]

    def zero_(self) -> GradientRows:
        """Set every gradient to zero."""
        self.buffer.zero_()
        return self

    def zero_absent_(self) -> None:
        """No gradient for the heads that take no part in the step."""
        for k in set(range(len(self._heads))).difference(self._layout.tasks):
            self._heads[k].zero_()

    def bind(self, row: int = 0) -> None:
        """Let the parameters' ``grad`` be row ``row`` and the heads of this buffer."""
        layout, bound = self._layout, self._layout.bound
        if bound == (self, row):
            return
        layout.bound = self, row
        for p, view in zip(layout.shared_params, self._row_views[row], strict=True):
            p.grad = view
        if bound is not None and bound[0] is self:
            return  # all rows have the same heads
        if len(layout.tasks) < len(layout.all_heads):
            for p in chain.from_iterable(layout.all_head_params):
                p.grad = None
        for k in layout.tasks:
            for p, view in zip(layout.all_head_params[k], self._head_views[k], strict=True):
                p.grad = view


def views(vector: Tensor, params: Sequence[nn.Parameter]) -> list[Tensor]:
    pieces = vector.split([p.numel() for p in params]) if params else ()
    return [piece.view(p.shape) for piece, p in zip(pieces, params, strict=True)]


def _check_uniform(params: Sequence[nn.Parameter]) -> None:
    if any(isinstance(p, UninitializedParameter) for p in params):
        raise UsageError("a lazy layer has no parameters yet: run the model once first")
    kinds = {(p.dtype, p.device) for p in params}
    if not kinds:
        raise UsageError("the model has no trainable parameter")
    if len(kinds) > 1:
        raise UsageError(
            f"trainable parameters must share one dtype and device, "
            f"found {sorted(map(str, kinds))}: build the Stepper after model.to(device)"
        )
