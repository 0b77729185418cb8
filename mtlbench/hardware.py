"""Devices: which one to use, how to wait for it, how much memory a run took on it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import UsageError

STATUS = Path("/proc/self/status")
ALIGNED = 64
"""Bytes to whose multiples tensors are put, as torch does itself."""


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes with ``count`` threads within, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def visible_gpus() -> list[str]:
    """Names of the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each.strip() for each in named.split(",") if each.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]


def pick_device(name: str | None = None) -> torch.device:
    """The named device, else the first of CUDA, MPS and CPU that is there.

    Raises:
        UsageError: the named device does not exist on this machine.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device {name!r} is not available here: {reason}") from error
    return device


def describe(device: torch.device) -> str:
    """The device's product name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait for a copy of its own memory to CUDA."""
    if device.type != "cuda" or t.device.type != "cpu":
        return t.to(device)
    return (t if t.is_pinned() else t.pin_memory()).to(device, non_blocking=True)


def all_to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """As :func:`to_device`, what has to be pinned for CUDA in one piece and by one copy."""
    packed = [t for t in tensors if device.type == "cuda" and is_plain(t) and not t.is_pinned()]
    if len(packed) < 2:
        return [to_device(t, device) for t in tensors]
    there = pack(packed, pin=True).to(device, non_blocking=True)
    found = dict(zip(map(id, packed), unpack(there, packed), strict=True))
    return [found[id(t)] if id(t) in found else to_device(t, device) for t in tensors]


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is nothing but its bytes, in the host's memory."""
    plain = t.layout == torch.strided and t.is_contiguous() and not t.requires_grad
    return t.device.type == "cpu" and plain and t.numel() > 0


def pack(tensors: Sequence[Tensor], *, pin: bool = False) -> Tensor:
    """The bytes of tensors for which :func:`is_plain` holds, in one tensor.

    Args:
        pin: whether it is in memory that a GPU can copy from by itself.
    """
    spans = _spans(tensors)
    whole = torch.empty(spans[-1].stop if spans else 0, dtype=torch.uint8, pin_memory=pin)
    for span, t in zip(spans, tensors, strict=True):
        whole[span].copy_(t.view(-1).view(torch.uint8))
    return whole


def unpack(whole: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Inverse of :func:`pack`.

    Args:
        whole: what it made, wherever that has come to since.
        like: of the same dtypes and shapes.
    """
    return [
        # .data: a version of its own, so that to write to one is not to write to all of them
        whole[span].view(t.dtype).view(t.shape).data
        for span, t in zip(_spans(like), like, strict=True)
    ]


def _spans(tensors: Sequence[Tensor]) -> list[slice]:
    ends = np.cumsum([-(-t.nbytes // ALIGNED) * ALIGNED for t in tensors]).tolist()
    return [slice(a, a + t.nbytes) for a, t in zip([0, *ends], tensors, strict=False)]


def home_of_doubles(device: torch.device) -> torch.device:
    """Where numbers of a device are added up in double precision: there, or on the host for MPS,
    which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def rng_state(device: torch.device) -> Tensor | None:
    """State of a device's global generator; None for the CPU's, which is torch's own."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_rng_state(device: torch.device, state: Tensor | None) -> None:
    """Inverse of :func:`rng_state`."""
    if state is None:
        return
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)


def on_host(*tensors: Tensor) -> list[NDArray[np.float64]]:
    """Numbers of detached tensors, in double precision; those of one device by one copy."""
    devices = {t.device for t in tensors}
    if len(devices) != 1 or any(d.type in ("cpu", "mps") for d in devices):  # MPS has no doubles
        return [t.cpu().double().numpy() for t in tensors]
    flat = torch.cat([t.double().flatten() for t in tensors]).cpu()
    pieces = flat.split([t.numel() for t in tensors])
    return [piece.view(t.shape).numpy() for piece, t in zip(pieces, tensors, strict=True)]


class Stopwatch:
    """Times of pieces of work, on CUDA without a wait for the device at either end.

    Args:
        device: that works.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time what is done within."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
            return
        synchronize(self._device)
        begun = time.perf_counter()
        yield
        synchronize(self._device)
        self._laps.append(time.perf_counter() - begun)

    def seconds(self) -> list[float]:
        """All times, in order; waits for the last of them to end."""
        if self._events:
            self._events[-1][1].synchronize()
        return [*self._laps, *(a.elapsed_time(b) / 1000 for a, b in self._events)]


class PeakMemory:
    """Peak memory since it was made: of CUDA's allocator, or the growth of this process's resident
    set (Linux).

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif STATUS.exists():
            try:
                STATUS.with_name("clear_refs").write_text("5")  # forget the peak so far
            except OSError:
                self._start = _status("VmHWM")
            else:
                self._start = _status("VmRSS")

    def megabytes(self) -> float | None:
        """The peak in MiB; None where it cannot be known."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        if STATUS.exists():
            return max(_status("VmHWM") - self._start, 0.0)
        return None


def _status(key: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1]) / 1024
    return 0.0
