"""Runs that processes of one machine train together: the first one leads, and starts the others.

One that dies is noticed at once on the CPU, on CUDA after the limit, as NCCL does not tell.
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtlbench import torch_private
from mtlbench.engine.reduce import LostError, ProcessRanks
from mtlbench.errors import UsageError
from mtlbench.hardware import pick_device
from mtlbench.processes import GRACE, ending, stop, watch_parent
from mtlbench.runs.execute import ALONE, UNWATCHED, Load, Watching, execute, failure, follow, why
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.workers import context

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
"""How processes send to each other what is on a device."""
HERE = "127.0.0.1"
CHANGED = "its code or data changed while it waited for its turn"
READY = ""
AT_ONCE = 1.0
"""Seconds in which it is known how a process that was lost has ended."""


def make(spec: RunSpec, digest: str, store: Store, watching: Watching, load: Load) -> str:
    """Carry out a request in a worker's process, unless it has become another run meanwhile.

    Args:
        spec: the request.
        digest: of the run that it was when it was claimed.
        store: where records and checkpoints go.
        watching: what is told and kept meanwhile.
        load: what it computes with.

    Returns:
        Why there is no record; empty if there is one.
    """
    try:
        run = prepare(spec)
        if run.identity.digest != digest:  # what this process has imported may be either
            return CHANGED
        record = carry_out(run, store, watching, load)
    except UsageError as error:
        return str(error)
    kept = store.status(run.identity) == record.status  # a finished record stays as it is
    return "" if kept else record.reason


def carry_out(
    run: Run, store: Store, watching: Watching = UNWATCHED, load: Load = ALONE
) -> RunRecord:
    """:func:`~mtlbench.runs.execute.execute` a run in this process and in as many more as it is a
    run of; none of those is left when this ends, however that is.

    Raises:
        UsageError: this machine has no place for them.
        StoppedError: see there.
    """
    if run.identity.ranks == 1:
        return execute(run, store, watching, load)
    check_device(run.device.type, run.identity.ranks)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run = prepare(replace(run.spec, device=place(run.device.type, 0)))
    crew = _Crew(run, load.limit)
    try:
        crew.meet(run, store.folder, load)
        record = execute(run, store, watching, load, ProcessRanks())
        if record.status != "failed":
            crew.part()
        elif said := crew.said(record.reason):
            record = record.model_copy(update={"reason": f"{record.reason}; {said}"})
            store.write(record)
    except LostError as error:  # before it began
        record = failure(run, "failed", why(error, run), started, load)
        store.write(record)
    finally:
        crew.end()
    return record


def check_device(kind: str, size: int, share: float | None = None) -> None:
    """Refuse a device on which so many processes cannot train together.

    Args:
        kind: of device.
        size: processes of a run on this machine.
        share: of a GPU, of each; None for a whole one.

    Raises:
        UsageError: it is such a device.
    """
    if not dist.is_available():
        raise UsageError("several processes need torch.distributed, which this torch lacks")
    if kind not in BACKENDS:
        raise UsageError(f"several processes train on the CPU or on CUDA, not on {kind}")
    if kind == "cuda" and share not in (None, 1):
        raise UsageError(
            f"--gpus {share:g} for several processes, and NCCL wants a GPU for each: leave it out"
        )
    if kind == "cuda" and size > torch.cuda.device_count():
        raise UsageError(
            f"{size} processes, which is more than the {torch.cuda.device_count()} GPUs here: "
            "start one a GPU"
        )


def place(kind: str, number: int) -> str:
    """The device of one of several processes on this machine, which from now on is its own.

    Raises:
        UsageError: see :func:`check_device`.
    """
    check_device(kind, number + 1)
    if kind != "cuda":
        return kind
    torch.cuda.set_device(number)
    return f"cuda:{number}"


# ------------------------------------------------------------------------------------ the first one
class _Crew:
    """The processes of a run, of which this one is the first.

    Args:
        run: what they train.
        limit: seconds that they wait for each other.
    """

    def __init__(self, run: Run, limit: float) -> None:
        self._limit, self._size, self._kind = limit, run.identity.ranks, run.device.type
        self._meeting = _meeting(limit)
        self._others: list[tuple[BaseProcess, Connection]] = []

    def meet(self, run: Run, folder: Path, load: Load) -> None:
        """Start the others, and meet them.

        Raises:
            LostError: one of them has not come that far, and why.
        """
        processes = context(run.modules)
        for rank in range(1, self._size):
            pipe, theirs = processes.Pipe()
            known = (theirs, self._meeting.port, rank, run.spec, run.identity.digest, folder, load)
            process = processes.Process(target=_accompany, args=known, daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            self._others.append((process, pipe))
        for other in self._others:
            if said := _said(*other, self._limit, f"not ready within {self._limit:g} s"):
                raise LostError(f"another process has not begun: {said}")
        try:
            _join(self._kind, self._meeting, 0, self._size, self._limit)
        except RuntimeError as error:
            raise LostError(f"another process has not begun: {error}") from error

    def said(self, known: str) -> str:
        """What else the others say of the end of the run, or of theirs."""
        wait([pipe for _, pipe in self._others], AT_ONCE)
        found = dict.fromkeys(_said(*other, 0) for other in self._others)
        return "; ".join(said for said in found if said and said not in known)

    def part(self) -> None:
        """Leave the others, who leave as well."""
        dist.destroy_process_group()
        for process, _ in self._others:
            process.join(GRACE)

    def end(self) -> None:
        """Leave no process behind."""
        stop(process for process, _ in self._others)
        for _, pipe in self._others:
            pipe.close()
        if dist.is_initialized():
            if self._kind == "cuda":  # where to leave in good order is to wait for the others
                torch_private.abort_process_group()
            else:
                dist.destroy_process_group()


def _said(process: BaseProcess, pipe: Connection, seconds: float, otherwise: str = "") -> str:
    """What a process says within so many seconds, or how it has ended; empty if all is well."""
    if not pipe.poll(seconds):
        return otherwise
    try:
        said: str = pipe.recv()
    except (EOFError, OSError):
        process.join(AT_ONCE)
        return f"it ended with {ending(process)}" if process.exitcode else ""
    return said


def _meeting(limit: float, port: int = 0) -> Any:
    """Where processes find each other: opened by the first one, which says at which port."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        HERE,
        port,
        is_master=not port,
        timeout=timedelta(seconds=limit),
        wait_for_workers=False,
    )


def _join(kind: str, meeting: Any, rank: int, size: int, limit: float) -> None:
    dist.init_process_group(
        BACKENDS[kind],
        store=meeting,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=limit),
    )


# ------------------------------------------------------------------------------------ the others
def _accompany(
    pipe: Connection, port: int, rank: int, spec: RunSpec, digest: str, folder: Path, load: Load
) -> None:
    """Follow a run in a process that the first one has started; say that it can, or what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first one, too
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, also where it waits for the others
    watch_parent()
    multiprocessing.current_process().daemon = False  # it may have processes that fetch batches
    try:
        run = prepare(replace(spec, device=place(pick_device(spec.device).type, rank)))
    except Exception as error:  # whatever it is: the first one writes it down
        pipe.send(f"{type(error).__name__}: {error}")
        return
    if run.identity.digest != digest:
        pipe.send(CHANGED)
        return
    pipe.send(READY)
    try:
        meeting = _meeting(load.limit, port)
        _join(run.device.type, meeting, rank, run.identity.ranks, load.limit)
        follow(run, Store(folder), load, ProcessRanks())
        dist.destroy_process_group()
    except LostError:  # whoever it is that was lost
        return
    except Exception as error:
        pipe.send(why(error, run))
