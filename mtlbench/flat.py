"""All trainable parameters in one buffer, and gradient buffers of the same layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.model import MultiTaskModel

Move = tuple[slice, Tensor, Tensor | float]
"""``(segment, direction, length)``: add ``length * direction`` to a segment of the parameters."""

_ELSEWHERE = 1 << 24  # versions of shifted parameters start so far above those of any training


class Shift(Protocol):
    """Displaces segments of the parameters."""

    def __call__(self, *moves: Move) -> None: ...


class FlatParameters:
    """One contiguous buffer ``[shared | head_1 | ... | head_K]``; the model's parameters are views
    into it.

    Build it after ``model.to(device)``. ``load_state_dict`` keeps the views,
    ``optimizer.zero_grad()`` drops the gradients' (never call it: gradients are written, not
    accumulated, from step to step).

    Args:
        model: its trainable parameters are moved into the buffer; frozen ones are left alone.
        objectives: order of the heads; heads of other objectives are left alone.

    Raises:
        UsageError: there is nothing to train, or parameters differ in dtype or device.
    """

    def __init__(self, model: MultiTaskModel, objectives: Sequence[str]) -> None:
        shared, heads = model.parameter_roles(objectives)
        self.shared_params = shared
        self.all_head_params = heads
        self.params = [*shared, *(p for head in heads for p in head)]
        _check_uniform(self.params)
        in_heads = {id(p) for p in model.heads.parameters()}
        in_trunk = {id(p) for p in model.shared.parameters()} - in_heads
        self.trunk_only = bool(shared) and all(id(p) in in_trunk for p in shared)
        """Whether every shared parameter acts through the trunk's output alone."""
        sizes = [sum(p.numel() for p in group) for group in (shared, *heads)]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        segments = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.shared, self.all_heads = segments[0], segments[1:]
        names = {id(p): name for name, p in model.named_parameters()}
        self.layer_names = [names[id(p)] for p in shared]
        """Names of the shared parameters, as the model has them."""
        self.layer_sizes = [p.numel() for p in shared]
        self.data = torch.cat([p.detach().reshape(-1) for p in self.params])
        for p, view in zip(self.params, _views(self.data, self.params), strict=True):
            p.data = view
        self._use(range(len(heads)))
        self.bound: tuple[GradientRows, int] | None = None
        """Where the parameters' ``grad`` was bound to in this step."""
        self.grad = GradientRows(self, 1)
        self._pool: dict[int, list[GradientRows]] = {1: [self.grad]}
        self._taken: dict[int, int] = {}
        self._anchor = self.data.new_empty(0)
        self._anchored_at = -1
        self._shifts = 0
        self.point = 0
        """Names the present position of the parameters; a shift changes it, its end restores it."""

    def begin_step(self, tasks: Sequence[int] | None = None) -> None:
        """Forget the last step: its gradient buffers may be reused, the parameters may differ.

        Args:
            tasks: which heads take part in the new one; all by default.
        """
        self._taken = {}
        self._anchored_at = -1
        self.bound = None
        self._use(range(len(self.all_heads)) if tasks is None else tasks)
        self.grad.use(1)

    def _use(self, tasks: Sequence[int]) -> None:
        self.tasks = list(tasks)
        """Tasks that take part in the present step."""
        self.heads = [self.all_heads[k] for k in self.tasks]
        self.head_params = [self.all_head_params[k] for k in self.tasks]

    def rows(self, n_rows: int) -> GradientRows:
        """A zeroed gradient buffer that nobody else uses in this step; allocated once a run."""
        size = 1 if n_rows == 1 else max(n_rows, len(self.all_heads))
        pool = self._pool.setdefault(size, [])
        index = self._taken.get(size, 0)
        self._taken[size] = index + 1
        if index == len(pool):
            pool.append(GradientRows(self, size))
        return pool[index].use(n_rows).zero_()

    @contextmanager
    def shifted(self, *moves: Move) -> Iterator[Shift]:
        """Displace segments of the parameters; they are bit-equal again afterwards, also after an
        exception.

        A graph is of use where it was made: one made before the shift fails within it and works
        again afterwards, one made within it fails ever after.

        Yields:
            What displaces segments anew, from where they were before the shift: cheaper than a
            second shift. Segments that it is not given stay where they are.

        Raises:
            RuntimeError: within another shift; shifts do not nest.
            ValueError: a direction is not of its segment's size.
        """
        if self.point:
            raise RuntimeError("shifted() inside shifted(): shifts do not nest")
        versions = [p._version for p in self.params]
        if self._anchored_at != sum(versions):
            self._anchor = self._anchor.resize_as_(self.data).copy_(self.data)
            self._anchored_at = sum(versions)
        moved: list[slice] = []

        def shift(*moves: Move) -> None:
            for segment, direction, _ in moves:
                if direction.shape != self.data[segment].shape:
                    size = tuple(direction.shape)
                    raise ValueError(f"a direction of shape {size} for parameters {segment}")
            moved.extend(segment for segment, _, _ in moves if segment not in moved)
            self._shifts += 1
            self.point = self._shifts
            for segment, direction, length in moves:
                step = torch.as_tensor(length, dtype=direction.dtype, device=direction.device)
                torch.addcmul(self._anchor[segment], direction, step, out=self.data[segment])
            self._set_versions([_ELSEWHERE + self._shifts] * len(versions))

        try:
            shift(*moves)
            yield shift
        finally:
            for segment in moved:
                self.data[segment].copy_(self._anchor[segment])
            self._set_versions(versions)
            self.point = 0

    def _set_versions(self, versions: Sequence[int]) -> None:
        # Writing through the buffer bypasses autograd's version counters: without this, a backward
        # pass through a graph made at another point would silently mix the two. Each shift has a
        # version of its own; the parameters are bit-equal after it, so their old one is true again.
        torch._C._autograd._unsafe_set_version_counter(tuple(self.params), tuple(versions))

    def scale_layers_(self, direction: Tensor, factors: Tensor) -> Tensor:
        """Multiply each shared tensor's part of ``direction`` (P,) by its entry of ``factors``."""
        if self.layer_sizes:
            torch._foreach_mul_(direction.split(self.layer_sizes), factors.unbind())
        return direction

    def layer_norms(self, direction: Tensor) -> Tensor:
        """Norm of each shared parameter tensor's part of ``direction`` (P,), one entry a tensor."""
        if not self.layer_sizes:
            return direction.new_zeros(0)
        return torch.stack(torch._foreach_norm(direction.split(self.layer_sizes)))


class GradientRows:
    """A gradient buffer: ``n_rows`` gradients of the shared parameters and one of every head.

    Autograd writes into row k while it is bound; head k sees loss k only, so the heads need no
    rows. Heads that take no part in a step have no gradient in it.

    Attributes:
        jacobian: (n_rows, P).
        rows: the rows of ``jacobian``, each (P,).
        heads: one vector a head that takes part.
    """

    def __init__(self, flat: FlatParameters, n_rows: int) -> None:
        P = flat.shared.stop
        self._flat = flat
        self.buffer = flat.data.new_zeros((n_rows - 1) * P + flat.data.numel())
        offset = (n_rows - 1) * P
        self._jacobian = self.buffer[: n_rows * P].view(n_rows, P)
        self._rows = list(self._jacobian.unbind())
        self._heads = [self.buffer[s.start + offset : s.stop + offset] for s in flat.all_heads]
        self._row_views = [_views(row, flat.shared_params) for row in self._rows]
        pairs = zip(self._heads, flat.all_head_params, strict=True)
        self._head_views = [_views(own, params) for own, params in pairs]
        self.use(n_rows)

    def use(self, n_rows: int) -> GradientRows:
        """Show the first ``n_rows`` rows, and the heads of the present step."""
        self.jacobian, self.rows = self._jacobian[:n_rows], self._rows[:n_rows]
        self.heads = [self._heads[k] for k in self._flat.tasks]
        return self

    def zero_(self) -> GradientRows:
        """Set every gradient to zero."""
        self.buffer.zero_()
        return self

    def bind(self, row: int = 0) -> None:
        """Let the parameters' ``grad`` be row ``row`` and the heads of this buffer."""
        flat = self._flat
        if flat.bound == (self, row):
            return
        flat.bound = self, row
        for p, view in zip(flat.shared_params, self._row_views[row], strict=True):
            p.grad = view
        if len(flat.tasks) < len(flat.all_heads):
            for p in chain.from_iterable(flat.all_head_params):
                p.grad = None
        for k in flat.tasks:
            for p, view in zip(flat.all_head_params[k], self._head_views[k], strict=True):
                p.grad = view


def _views(vector: Tensor, params: Sequence[nn.Parameter]) -> list[Tensor]:
    pieces = vector.split([p.numel() for p in params]) if params else ()
    return [piece.view(p.shape) for piece, p in zip(pieces, params, strict=True)]


def _check_uniform(params: Sequence[nn.Parameter]) -> None:
    kinds = {(p.dtype, p.device) for p in params}
    if not kinds:
        raise UsageError("the model has no trainable parameter")
    if len(kinds) > 1:
        raise UsageError(
            f"trainable parameters must share one dtype and device, "
            f"found {sorted(map(str, kinds))}: build the Stepper after model.to(device)"
        )
