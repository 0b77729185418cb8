"""All trainable parameters in one buffer, which can be displaced."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.engine.overlap import Slices
from mtlbench.engine.rows import GradientRows, Layout, views
from mtlbench.engine.stream import RowsMode
from mtlbench.errors import UsageError
from mtlbench.interfaces import Move, MultiTaskModel, Parameters, Shift
from mtlbench.torch_private import set_versions

_ELSEWHERE = 1 << 24  # versions of shifted parameters start so far above those of any training


class FlatParameters(Layout, Parameters):
    """One contiguous buffer ``[shared | head_1 | ... | head_K]``; the model's parameters are views
    into it.

    Build it after ``model.to(device)``. Each parameter's storage is as big as its numbers, so that
    a saved head is no bigger. Parameters that were taken out of the buffer (``p.data = ...``,
    another memory format, ``load_state_dict(assign=True)``, a second buffer) come back with the
    numbers they have when a step begins. A copy, or a pickle, has a buffer of its own.
    ``optimizer.zero_grad()`` drops the gradients' views (never call it: gradients are written, not
    accumulated, from step to step).

    Args:
        model: its trainable parameters are moved into the buffer; frozen ones are left alone.
        objectives: order of the heads; heads of other objectives are left alone.
        rows: when a Gramian is made without a whole Jacobian, see :class:`Streamer`.

    Raises:
        UsageError: there is nothing to train, or parameters differ in dtype or device.
    """

    def __init__(
        self, model: MultiTaskModel, objectives: Sequence[str], rows: RowsMode = "auto"
    ) -> None:
        super().__init__(model, objectives, rows)
        self.slices = Slices(self)
        self.model, self.objectives = model, list(objectives)
        self.data = torch.cat([p.detach().reshape(-1) for p in self.params])
        self._bind_all()
        self._watch()
        self._allocate()
        self._taken: dict[int, int] = {}
        self._anchor = self.data.new_empty(0)
        self._anchored_at = -1
        self._shifts = 0
        self.point = 0
        """Names the present position of the parameters; a shift changes it, its end restores it."""

    def __getstate__(self) -> tuple[MultiTaskModel, list[str], RowsMode]:
        return self.model, self.objectives, self.streamer.mode

    def __setstate__(self, state: tuple[MultiTaskModel, list[str], RowsMode]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def _allocate(self) -> None:
        self.grad = GradientRows(self, 1)
        self._pool: dict[int, list[GradientRows]] = {1: [self.grad]}

    def _bind_all(self) -> None:
        for p, view in zip(self.params, views(self.data, self.params), strict=True):
            p.data = _standing_alone(view)
        self._pointers = [p.data_ptr() for p in self.params]

    def _watch(self) -> None:
        """Note what the model is made of."""
        self.modules = list(self.model.modules())
        """The model's parts, as of the last :meth:`begin_step`."""
        self._tables: list[dict[str, Any]] = [
            table for m in self.modules for table in (m._parameters, m._modules)
        ]
        self._parts = list(chain.from_iterable(table.values() for table in self._tables))
        names = {id(p): name for name, p in self.model.named_parameters()}
        self._names = {id(p): names[id(p)] for p in self.params}
        self._every = list(self.model.parameters())
        self._trainable = [p.requires_grad for p in self._every]

    def _check(self) -> None:
        """Compare with what was noted: no numbers are read, nothing waits for a device."""
        parts = list(chain.from_iterable(table.values() for table in self._tables))
        alike = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        if not alike or [p.requires_grad for p in self._every] != self._trainable:
            self._check_roles()
        if [p.data_ptr() for p in self.params] != self._pointers:
            self._take_back()

    def _check_roles(self) -> None:
        """Parts of the model were exchanged, or requires_grad was: the roles must be the same.

        Raises:
            UsageError: they are not.
        """
        shared, heads = self.model.parameter_roles(self.objectives)
        now = [*shared, *(p for head in heads for p in head)]
        if list(map(id, now)) != list(map(id, self.params)):
            names = {id(p): name for name, p in self.model.named_parameters()}
            new = {names[id(p)] for p in now if id(p) not in self._names}
            kept = set(map(id, now))
            gone = {name for i, name in self._names.items() if i not in kept}
            changes = {"new": new - gone, "gone or frozen": gone - new, "replaced": new & gone}
            said = [
                f"{what}: {', '.join(sorted(those))}" for what, those in changes.items() if those
            ]
            raise UsageError(
                "the trainable parameters are not those that the Stepper was built with "
                f"({'; '.join(said) or 'their order is another'}): build a new Stepper, with an "
                "optimizer that has them all"
            )
        self._watch()

    def _take_back(self) -> None:
        """Move parameters that lie elsewhere back into the buffer.

        Raises:
            UsageError: they have another dtype, device or shape.
        """
        pieces = views(self.data, self.params)
        for p, piece in zip(self.params, pieces, strict=True):
            for what in ("dtype", "device", "shape"):
                now, then = getattr(p, what), getattr(piece, what)
                if now != then:
                    name = self._names[id(p)]
                    raise UsageError(
                        f"{name} has {what} {now}, and {then} when the Stepper was built: build "
                        "the Stepper after the last change of the model"
                    )
        for p, piece in zip(self.params, pieces, strict=True):
            if p.data_ptr() != piece.data_ptr():
                piece.copy_(p.detach())
        self._bind_all()
        # What converts parameters in place converts their gradients' views, too.
        if not all(rows.intact() for pool in self._pool.values() for rows in pool):
            self._allocate()

    def begin_step(self, tasks: Sequence[int] | None = None) -> None:
        """Forget the last step: its gradient buffers may be reused, the parameters may differ.

        Args:
            tasks: which heads take part in the new one; all by default.

        Raises:
            UsageError: the trainable parameters are others, or of another kind, than those that
                this was built with.
        """
        self._check()
        self._taken = {}
        self._anchored_at = -1
        self.bound = None
        self.use(range(len(self.all_heads)) if tasks is None else tasks)
        self.grad.use(1)
        self.grad.zero_absent_()

    def rows(self, n_rows: int) -> GradientRows:
        """A zeroed gradient buffer that nobody else uses in this step; allocated once a run."""
        size = 1 if n_rows == 1 else max(n_rows, len(self.all_heads))
        pool = self._pool.setdefault(size, [])
        index = self._taken.get(size, 0)
        self._taken[size] = index + 1
        if index == len(pool):
            pool.append(GradientRows(self, size))
        return pool[index].use(n_rows).zero_()

    def reuse_rows(self) -> None:
        """Let what follows in the step have the gradient buffers of what came before."""
        self._taken = {}

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
                step = _scalar(length, direction)
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

    def displacement(self) -> Tensor:
        """How far the shared parameters are displaced, (P,), within :meth:`shifted`."""
        return self.data[self.shared] - self._anchor[self.shared]

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


def descent(
    optimizer: Optimizer, layout: Layout, gradients: Sequence[Tensor], *, bare: bool = False
) -> list[Tensor]:
    """By what descent would move the parameters; see :meth:`StepProblem.ahead`.

    Args:
        optimizer: whose learning rates, momentum and weight decay count.
        layout: of the parameters.
        gradients: of the trunk, and of each head that takes part.
        bare: whether momentum and weight decay are left out.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    segments, moves = [layout.shared_params, *layout.head_params], []
    for params, gradient in zip(segments, gradients, strict=True):
        move = gradient.clone()
        for p, piece in zip(params, views(move, params), strict=True):
            group = groups.get(id(p), {"lr": 0.0})
            buffer = optimizer.state.get(p, {}).get("momentum_buffer")
            if buffer is not None and not bare:
                piece.add_(buffer, alpha=group["momentum"])
            if not bare:
                piece.add_(p.detach(), alpha=group.get("weight_decay", 0.0))
            piece.mul_(-group["lr"])
        moves.append(move)
    return moves


def _scalar(length: Tensor | float, like: Tensor) -> Tensor:
    """A length on the device of a direction; a number is written there, not copied to there."""
    return length.to(like) if isinstance(length, Tensor) else like.new_full((), length)


def _standing_alone(view: Tensor) -> Tensor:
    """The same memory with a storage as big as the view: saved or copied by itself it brings
    nothing else along."""
    try:
        return torch.utils.dlpack.from_dlpack(view)
    except (BufferError, RuntimeError, TypeError, ValueError):  # DLPack does not know it
        return view
