"""Batches on their way to a device: fetched ahead by processes, finished where they are used."""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtlbench.data.batches import NumberedBatches
from mtlbench.data.notes import SLOT, note_in, read_by
from mtlbench.errors import UsageError
from mtlbench.hardware import cores, is_plain, pack, unpack
from mtlbench.interfaces import Batch, InputGroup
from mtlbench.processes import end_with_parent, ending, stop
from mtlbench.torch_private import tree_map

AHEAD = 2
"""Batches that each process has ready."""
FEW = 4
"""Processes beyond which more have not paid."""
LOOK = 2.0
"""Seconds between two looks at whether the processes live, while a batch is waited for."""
PATIENCE = 300.0
"""Seconds in which no process has a batch ready, after which they count as stuck."""


def check_workers(workers: int | None) -> None:
    """Refuse a number of processes that cannot be had.

    Raises:
        UsageError: a platform that cannot fork has none.
    """
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UsageError(
            f"batches are fetched by processes where these fork, not on {sys.platform}"
        )


def default_workers(device: torch.device, *, on_disk: bool, jobs: int = 1) -> int:
    """Processes that pay: some where an accelerator would wait for data that lie on a disk."""
    able = "fork" in multiprocessing.get_all_start_methods()
    return min(FEW, max(cores() // jobs, 1)) if able and on_disk and device.type != "cpu" else 0


@dataclass(frozen=True)
class Feed:
    """Brings batches to a device, the same ones in the same order with any number of processes.

    Args:
        device: where they are used.
        workers: processes that fetch them ahead; with 0 each is fetched when it is asked for.
    """

    device: torch.device
    workers: int = 0

    def __call__(self, batches: Iterable[Batch]) -> Generator[Batch]:
        """One pass. The processes end with it; close it where it is left before its end.

        Raises:
            UsageError: of the data, as whoever fetches finds them.
            RuntimeError: a process died or is stuck; with the file that it was at.
        """
        if not isinstance(batches, NumberedBatches):
            if self.workers:
                warnings.warn(
                    f"{type(batches).__name__} are no NumberedBatches: processes cannot fetch them",
                    stacklevel=2,
                )
            for batch in batches:
                yield [group.to(self.device) for group in batch]
            return
        with closing(_fetched(batches, self.workers)) as fetched:
            for batch in fetched:
                yield batches.finished([group.to(self.device) for group in batch])


def _fetched(batches: NumberedBatches, workers: int) -> Generator[Batch]:
    """Batches on the host, unfinished.

    The first is fetched here: what that opens is opened once, and there for the processes.
    """
    n = len(batches)
    if n:
        yield batches.fetch(0)
    if workers and n > 1:
        yield from _by_processes(batches, range(1, n), min(workers, n - 1))
    else:
        yield from map(batches.fetch, range(1, n))


# ------------------------------------------------------------------------------------ processes
def _by_processes(batches: NumberedBatches, numbers: range, workers: int) -> Iterator[Batch]:
    slots = mmap.mmap(-1, workers * SLOT)

    def begin(worker: int) -> None:
        note_in(slots, worker)
        end_with_parent()

    loader = DataLoader(
        _Fetching(batches),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=begin,
        timeout=LOOK,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it draws from the global one
    )
    before = multiprocessing.active_children()
    with _handlers_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more processes than cores; forked beside threads
        fetched = iter(loader)
    processes = [p for p in multiprocessing.active_children() if p not in before]
    try:
        for number in numbers:
            found = _next(fetched, number, processes, slots)
            if isinstance(found, Exception):
                raise found
            yield found.batch()
    finally:
        del fetched
        stop(processes)


def _next(
    fetched: Iterator[Any], number: int, processes: Sequence[BaseProcess], slots: mmap.mmap
) -> Any:
    """The next batch; looks now and then whether it can come at all.

    The loader raises nothing of its own but that it has waited, or that a process is gone.
    """
    latest = time.monotonic() + PATIENCE
    while True:
        try:
            return next(fetched)
        except (RuntimeError, OSError, EOFError) as error:
            for process in processes:
                if process.exitcode is not None:
                    raise RuntimeError(
                        f"a process that fetches batches ended with {ending(process)}"
                        f"{_at(slots, [process])}"
                    ) from error
            if time.monotonic() > latest:
                at = _at(slots, processes)
                raise RuntimeError(f"batch {number} has not come for {PATIENCE:g} s{at}") from error


def _at(slots: mmap.mmap, processes: Sequence[BaseProcess]) -> str:
    """What processes are reading, for the end of a message."""
    files = dict.fromkeys(filter(None, (read_by(slots, process.pid) for process in processes)))
    return f"; it was reading {' or '.join(files)}" if files else ""


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Without the loader's handler of SIGCHLD, which raises in the midst of whatever is done when
    a process dies; it is seen when a batch is asked for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


# ------------------------------------------------------------------------------------ their side
@dataclass(frozen=True)
class _Place:
    """Where a tensor was, by its position among all."""

    number: int


@dataclass(frozen=True)
class _Packed:
    """A batch with its tensors in one piece, as each is a file handle for whom it is sent to.

    Args:
        groups: inputs and targets with places for tensors.
        like: of the dtypes and shapes of the tensors, and without their memory.
        whole: their bytes.
    """

    groups: Sequence[tuple[Any, Mapping[str, Any]]]
    like: Sequence[Tensor]
    whole: Tensor

    @classmethod
    def of(cls, batch: Batch) -> _Packed:
        tensors: dict[int, Tensor] = {}
        places: dict[int, _Place] = {}

        def placed(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not is_plain(leaf):
                return leaf
            tensors[id(leaf)] = leaf
            return places.setdefault(id(leaf), _Place(len(places)))

        groups = [tree_map(placed, (group.inputs, dict(group.targets))) for group in batch]
        like = [torch.empty_like(t, device="meta") for t in tensors.values()]
        return cls(groups, like, pack(list(tensors.values())))

    def batch(self) -> Batch:
        tensors = unpack(self.whole, self.like)

        def found(leaf: Any) -> Any:
            return tensors[leaf.number] if isinstance(leaf, _Place) else leaf

        return [InputGroup(*tree_map(found, group)) for group in self.groups]


class _Fetching(Dataset[Any]):
    """Batches by number, or why there is none."""

    def __init__(self, batches: NumberedBatches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Any:
        try:
            return _Packed.of(self.batches.fetch(number))
        except UsageError as error:
            return error
        except Exception as error:  # whatever it is: the process that asks for the batch raises it
            return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def _as_it_is(found: Any) -> Any:
    return found
