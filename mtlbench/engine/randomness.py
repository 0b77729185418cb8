"""What a forward pass depends on besides the parameters: random numbers, modes, buffers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlbench.torch_private import NormBase

SMALL = 1 << 16
"""Entries of a buffer that costs nothing to copy."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators (weights, dropout) within; the caller's stay as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Randomness:
    """States of the global random number generators at each stage of a forward pass.

    Args:
        device: where it runs.
        apart: of a further batch: its number, from 1. Its first forward pass draws numbers of its
            own, which follow from what the generators are at now, and leaves the generators alone.
    """

    def __init__(self, device: torch.device, apart: int = 0) -> None:
        self._cuda = [device] if device.type == "cuda" else []
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
        torch.set_rng_state(known[0])
        for device, state in zip(self._cuda, known[1:], strict=True):
            torch.cuda.set_rng_state(state, device)

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first forward pass within: where it draws nothing, there is nothing to replay."""
        with nullcontext() if self._seed is None else torch.random.fork_rng(devices=self._cuda):
            if self._seed is not None:
                torch.default_generator.manual_seed(self._seed)
                for device in self._cuda:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(self._seed)
            yield
            start = next(iter(self._states.values()))
            self._unused = all(map(torch.equal, start, self._now()))

    def _now(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(device) for device in self._cuda]
        return [torch.get_rng_state(), *cuda]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Leave the global generators as they were."""
        if self._unused:
            yield
            return
        with torch.random.fork_rng(devices=self._cuda):
            yield


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


class Buffers:
    """What a network's forward pass moves besides the statistics of normalisation: buffers of any
    module (an iterate of spectral normalisation, running statistics of one's own).

    Args:
        model: before the step's first forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            _Kept(module, name, b, b._version, b.clone())
            for module in model.modules()
            for name, b in module._buffers.items()
            if b is not None
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
