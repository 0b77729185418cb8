"""All trainable parameters in one buffer, which can be displaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mtlbench.engine.private import set_versions
from mtlbench.engine.rows import GradientRows, Layout, views
from mtlbench.interfaces import Move, MultiTaskModel, Parameters, Shift

_ELSEWHERE = 1 << 24  # versions of shifted parameters start so far above those of any training


class FlatParameters(Layout, Parameters):
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
        super().__init__(model, objectives)
        self.data = torch.cat([p.detach().reshape(-1) for p in self.params])
        for p, view in zip(self.params, views(self.data, self.params), strict=True):
            p.data = view
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
        self.use(range(len(self.all_heads)) if tasks is None else tasks)
        self.grad.use(1)

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
        set_versions(self.params, versions)

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
