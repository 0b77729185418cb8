"""What a forward pass depends on besides the parameters: random numbers, modes, buffers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlbench.hardware import rng_state, set_rng_state
from mtlbench.torch_private import NormBase, copy_all

SMALL = 1 << 16
"""Entries of a buffer that costs nothing to copy."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators (weights, dropout) within, that of the CPU and a device's; the
    caller's stay as they were."""
    device = torch.device("cpu") if device is None else device
    here, there = torch.get_rng_state(), rng_state(device)
    try:
        reseed(seed, device)
        yield
    finally:
        torch.set_rng_state(here)
        set_rng_state(device, there)


def reseed(seed: int, device: torch.device) -> None:
    """Seed the global generators of the CPU and of a device."""
    torch.default_generator.manual_seed(seed)
    if rng_state(device) is not None:
        set_rng_state(device, torch.Generator(device).manual_seed(seed).get_state())


class Randomness:
    """States of the global random number generators at each stage of a forward pass.

    Args:
        device: where it runs.
        apart: of a further batch: its number, from 1. Its first forward pass draws numbers of its
            own, which follow from what the generators are at now, and leaves the generators alone.
    """

    def __init__(self, device: torch.device, apart: int = 0) -> None:
        self._device = device
        self._seed: int | None = None
        if apart:
            now = b"".join(state.numpy().tobytes() for state in self._now())
            self._seed = zlib.crc32(now) + apart
        self._states: dict[tuple[int | str, ...], list[Tensor]] = {}
        self._unused = False

    def enter(self, *stage: int | str) -> None:
        """Note the state on the first arrival at a stage, bring it back on every later one."""
        if self._unused:
            return
        known = self._states.get(stage)
        if known is None:
            self._states[stage] = self._now()
            return
        self._set(known)

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first forward pass within: where it draws nothing, there is nothing to replay."""
        before = None if self._seed is None else self._now()
        try:
            if self._seed is not None:
                reseed(self._seed, self._device)
            yield
            start = next(iter(self._states.values()), self._now())  # a batch may have no group
            self._unused = all(map(torch.equal, start, self._now()))
        finally:
            if before is not None:
                self._set(before)

    def _now(self) -> list[Tensor]:
        there = rng_state(self._device)
        return [torch.get_rng_state(), *([] if there is None else [there])]

    def _set(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            set_rng_state(self._device, state)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Leave the global generators as they were."""
        if self._unused:
            yield
            return
        before = self._now()
        try:
            yield
        finally:
            self._set(before)


@contextmanager
def frozen_statistics(layers: Sequence[NormBase]) -> Iterator[None]:
    """Normalise as each layer's mode says but leave the running statistics alone."""
    training = [m for m in layers if m.training]
    tracked = [m.track_running_stats for m in training]
    statistics = [dict(m._buffers) for m in training]
    try:
        for m in training:
            # What m.running_mean = None does, at a twentieth of the cost of nn.Module's setattr.
            vars(m)["track_running_stats"] = False
            m._buffers.update(running_mean=None, running_var=None)
        yield
    finally:
        for m, tracks, buffers in zip(training, tracked, statistics, strict=True):
            vars(m)["track_running_stats"] = tracks
            m._buffers.update(buffers)


@dataclass(slots=True)
class _Kept:
    """A buffer and its numbers as they were before the step."""

    module: nn.Module
    name: str
    buffer: Tensor
    version: int
    before: Tensor

    @property
    def moved(self) -> bool:
        """Whether it is another one, or was written to. Kernels of normalisation write without a
        note, so that a small buffer counts as moved rather than to wait for a comparison."""
        now = self.module._buffers[self.name]
        written = now is not self.buffer or self.buffer._version != self.version
        return written or self.buffer.numel() <= SMALL

    def restore(self) -> None:
        self.module._buffers[self.name] = self.buffer
        self.buffer.copy_(self.before)


@torch.no_grad()
def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, a kernel for all of a kind: on a GPU its launch costs more than its work."""
    copies = [torch.empty_like(t) for t in tensors]
    kinds: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}
    for new, old in zip(copies, tensors, strict=True):
        kinds.setdefault((old.dtype, old.device), []).append((new, old))
    for pairs in kinds.values():
        copy_all([new for new, _ in pairs], [old for _, old in pairs])
    return copies


class Buffers:
    """What a network's forward pass moves besides the statistics of normalisation: buffers of any
    module (an iterate of spectral normalisation, running statistics of one's own).

    Args:
        modules: all of the network, before the step's first forward pass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = [
            (module, name, b)
            for module in modules
            for name, b in module._buffers.items()
            if b is not None
        ]
        copies = _copies([b for _, _, b in found])
        self._kept = [
            _Kept(module, name, b, b._version, before)
            for (module, name, b), before in zip(found, copies, strict=True)
        ]
        self._moved = [k for k in self._kept if not isinstance(k.module, NormBase)]
        """What the first forward pass moves; what it may move, before there was one."""

    def settle(self) -> None:
        """After the first forward pass: note what it moved."""
        self._moved = [k for k in self._moved if k.moved]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Modules in training mode find their buffers as the first forward pass did; these are
        copies, and what it left is there again afterwards."""
        training = [k for k in self._moved if k.module.training]
        left = [k.module._buffers[k.name] for k in training]
        try:
            for k in training:
                k.module._buffers[k.name] = k.before.clone()
            yield
        finally:
            for k, buffer in zip(training, left, strict=True):
                k.module._buffers[k.name] = buffer

    def restore(self) -> None:
        """As before the first forward pass, for a step that is skipped."""
        for kept in self._kept:
            kept.restore()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, every module's own mode again afterwards."""
    before = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for m, mode in before:
            m.training = mode
