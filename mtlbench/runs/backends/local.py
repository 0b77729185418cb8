"""Worker processes on this machine: each imports once, keeps its data, and executes run after run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mtlbench.runs.backends import PATIENCE, Backend, Job
from mtlbench.runs.events import Event, StoppedError
from mtlbench.runs.execute import execute
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.workers import context

GRACE = 10.0
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
            _stop(workers, job)
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
            free.pipe.send(run.spec)

    def _start(self, workers: Sequence[_Worker], job: Job) -> _Worker:
        processes = context(self.modules)
        pipe, theirs = processes.Pipe()
        gpu = None
        if self.gpus:
            load = [sum(w.gpu == each for w in workers) for each in self.gpus]
            gpu = self.gpus[load.index(min(load))]
        process = processes.Process(  # type: ignore[attr-defined]
            target=_serve,
            args=(theirs, job.store.folder, job.threads, job.checkpoint_seconds, gpu),
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
            event = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            workers.remove(worker)
            worker.process.join()
            worker.pipe.close()
            job.queue.ended(run, f"the run's process ended with {_exit(worker.process)}")
            return
        if event.kind == "end":
            worker.run = None
            job.queue.ended(run)
        else:
            job.watch(run, event)


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    killed = code is not None and code < 0
    hint = " (killed; out of memory?)" if code == -9 else ""
    return f"signal {-code}{hint}" if killed and code is not None else f"exit code {code}"


def _stop(workers: Sequence[_Worker], job: Job) -> None:
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
                ended = ready.recv().kind == "end"
            except (EOFError, OSError):
                ended = True
            if ended:
                del busy[ready]
                assert worker.run is not None
                job.queue.ended(worker.run)
                worker.run = None


def _dismiss(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


def _tell(worker: _Worker, message: object) -> None:
    try:
        worker.pipe.send(message)
    except OSError:  # it is dead, which is heard of elsewhere
        return


# ------------------------------------------------------------------------------------ the worker
def _serve(
    pipe: Connection, folder: Path, threads: int, checkpoint_seconds: float, gpu: str | None
) -> None:
    """Execute what comes through the pipe, until it is closed."""
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    store = Store(folder)
    while True:
        try:
            spec = pipe.recv()
        except (EOFError, OSError):
            return
        if spec == STOP:
            continue
        try:
            execute(
                _prepared(spec),
                store,
                _watch(pipe),
                threads=threads,
                checkpoint_seconds=checkpoint_seconds,
            )
        except StoppedError:
            pass
        pipe.send(Event("end"))


def _prepared(spec: RunSpec) -> Run:
    return prepare(spec)


def _watch(pipe: Connection) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        pipe.send(event)
        if event.kind == "epoch" and pipe.poll() and pipe.recv() == STOP:
            raise StoppedError

    return watch
