"""Worker processes on this machine: each imports once, keeps its data, executes run after run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mtlbench.processes import INTERRUPTED, end_with_parent, ending, stop
from mtlbench.runs.backends import PATIENCE, Backend, Job
from mtlbench.runs.crew import make
from mtlbench.runs.events import Event, StoppedError, unwatched
from mtlbench.runs.execute import Load, Watching
from mtlbench.runs.spec import Run
from mtlbench.runs.store import Store
from mtlbench.runs.workers import context

GRACE = 5.0
"""Seconds that runs have, after an interrupt, to end their epoch and write their checkpoint."""
STOP = "stop"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class _Worker:
    """A process, what it is called by, and the run that it is at."""

    process: BaseProcess
    pipe: Connection
    gpu: str | None
    run: Run | None = field(default=None)


class Local(Backend):
    """Processes on this machine.

    Args:
        jobs: how many.
        modules: that the runs need; imported once, before processes are forked.
        gpus: what ``CUDA_VISIBLE_DEVICES`` is for the first worker, the second, and so on, again
            from the start; empty where runs use no GPU.
    """

    def __init__(self, jobs: int, modules: Iterable[str] = (), gpus: Sequence[str] = ()) -> None:
        self.jobs, self.modules, self.gpus = jobs, set(modules), list(gpus)

    def work(self, job: Job) -> None:
        workers: list[_Worker] = []
        try:
            while True:
                self._employ(workers, job)
                busy = {worker.pipe: worker for worker in workers if worker.run is not None}
                if not busy:
                    if job.queue.empty():
                        break
                    time.sleep(PATIENCE)
                    continue
                waiting = not job.queue.empty() and len(busy) < self.jobs
                for ready in wait(list(busy), PATIENCE if waiting else None):
                    assert isinstance(ready, Connection)
                    self._hear(busy[ready], workers, job)
        except BaseException:
            _wind_down(workers, job)
            raise
        finally:
            _dismiss(workers)

    def _employ(self, workers: list[_Worker], job: Job) -> None:
        """Give every free worker a run, and start workers while there are runs for them."""
        while True:
            free = next((w for w in workers if w.run is None), None)
            if free is None and len(workers) == self.jobs:
                return
            run = job.queue.take()
            if run is None:
                return
            if free is None:
                free = self._start(workers, job)
                workers.append(free)
            free.run = run
            free.pipe.send((run.spec, run.identity.digest))

    def _start(self, workers: Sequence[_Worker], job: Job) -> _Worker:
        processes = context(self.modules)
        pipe, theirs = processes.Pipe()
        gpu = least_loaded(self.gpus, [worker.gpu for worker in workers])
        process = processes.Process(  # type: ignore[attr-defined]
            target=_serve,
            args=(theirs, job.store.folder, job.load(self.jobs), job.watching(unwatched), gpu),
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(process, pipe, gpu)

    def _hear(self, worker: _Worker, workers: list[_Worker], job: Job) -> None:
        """One message of a worker; its death costs the run that it was at."""
        run = worker.run
        assert run is not None
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            workers.remove(worker)
            worker.process.join()
            worker.pipe.close()
            job.queue.ended(run, f"the run's process ended with {ending(worker.process)}")
            return
        if isinstance(message, Event):
            job.watch(run, message)
        else:
            worker.run = None
            job.queue.ended(run, message)


def groups(gpus: Sequence[str], size: int) -> list[str]:
    """GPUs by so many, as ``CUDA_VISIBLE_DEVICES`` has them; those that are over are left out."""
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def least_loaded(gpus: Sequence[str], taken: Sequence[str | None]) -> str | None:
    """The GPU that the fewest workers have; None where there is none."""
    return min(gpus, key=taken.count, default=None)


def _wind_down(workers: Sequence[_Worker], job: Job) -> None:
    """Let runs end their epoch and write their checkpoint, for a while; a second interrupt ends
    the wait."""
    busy = {worker.pipe: worker for worker in workers if worker.run is not None}
    for worker in busy.values():
        _tell(worker, STOP)
    end = time.monotonic() + GRACE
    while busy and (left := end - time.monotonic()) > 0:
        for ready in wait(list(busy), left):
            assert isinstance(ready, Connection)
            worker = busy[ready]
            try:
                ended = not isinstance(ready.recv(), Event)
            except (EOFError, OSError):
                ended = True
            if ended:
                del busy[ready]
                assert worker.run is not None
                job.queue.ended(worker.run)
                worker.run = None


def _dismiss(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    stop(worker.process for worker in workers)


def _tell(worker: _Worker, message: object) -> None:
    try:
        worker.pipe.send(message)
    except OSError:  # it is dead, which is heard of elsewhere
        return


# ------------------------------------------------------------------------------------ the worker
def _serve(pipe: Connection, folder: Path, load: Load, watching: Watching, gpu: str | None) -> None:
    """Execute what comes through the pipe, until it is closed."""
    end_with_parent()
    multiprocessing.current_process().daemon = False  # it may have processes that fetch batches
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    store, watching = Store(folder), replace(watching, watch=partial(_tell_of, pipe))
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message == STOP:
            continue
        (spec, digest), death = message, ""
        try:
            with suppress(StoppedError):
                death = make(spec, digest, store, watching, load)
        except KeyboardInterrupt:  # Ctrl-C goes to the sweep: this is the run's own doing
            raise SystemExit(INTERRUPTED) from None
        with suppress(OSError):  # the sweep is gone, which the next turn sees
            pipe.send(death)


def _tell_of(pipe: Connection, event: Event) -> None:
    """Send an event to the sweep, and hear at the end of an epoch whether the run is to stop."""
    if event.kind != "epoch":
        with suppress(OSError):
            pipe.send(event)
        return
    try:
        pipe.send(event)
        stopped = pipe.poll() and pipe.recv() == STOP
    except (EOFError, OSError):  # the sweep is gone
        stopped = True
    if stopped:
        raise StoppedError
