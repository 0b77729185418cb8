"""Many runs, each in a process of its own: a crash is a record, an interrupt loses at most an
epoch.

Several sweeps may share a folder, from several machines too: each claims what it makes, and waits
for what the others make.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mtlbench.errors import UsageError
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.runs.claims import Claim, acquire, holder
from mtlbench.runs.execute import execute, failure
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.workers import context

DONE = ("ok", "diverged")
"""Statuses that are not run again; a failed run is."""
ENDED = "the run's process ended with exit code"
POLL = 1.0
"""Seconds between two looks at runs that others make."""

logger = logging.getLogger(__name__)


def grid(
    base: RunSpec, methods: Sequence[str], sharpness: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Every method with every wrapper and seed, checked; a reference method runs once a seed,
    without a wrapper.

    Args:
        base: what the runs have in common.
        methods: names with options.
        sharpness: names with options.
        seeds: paired over all cells.

    Raises:
        UsageError: see :func:`~mtlbench.runs.spec.prepare`.
    """
    wanted = []
    for seed, method, wrapper in product(seeds, methods, sharpness):
        alone = METHODS.get(Spec.parse(method).name).info.role == "reference"
        chosen = SHARPNESS.default if alone else wrapper
        wanted.append(replace(base, method=method, sharpness=chosen, seed=seed))
    runs = {run.identity.digest: run for run in map(prepare, dict.fromkeys(wanted))}
    return list(runs.values())


def unfinished(runs: Iterable[Run], store: Store) -> list[Run]:
    """Those that have no record yet, a failed one, or one without the model that is wanted.

    Raises:
        UsageError: a later mtlbench made the folder.
    """
    return [run for run in runs if not _done(run, store)]


def _done(run: Run, store: Store) -> bool:
    status = store.status(run.identity)
    return status in DONE and not (status == "ok" and _lacks_model(run, store))


def _lacks_model(run: Run, store: Store) -> bool:
    return run.keeps_model and not store.model_path(run.identity).exists()


def sweep(
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int,
    threads: int,
    on_epoch: Callable[[Run], None] = lambda run: None,
    on_record: Callable[[Run, RunRecord], None] = lambda run, record: None,
) -> None:
    """Execute runs, ``jobs`` at a time; those that another sweep makes meanwhile are left to it.

    Args:
        runs: what to do.
        folder: where records and checkpoints go.
        jobs: processes at a time.
        threads: torch threads of each.
        on_epoch: called after each epoch of a run.
        on_record: called with each finished run.
    """
    store, processes = Store(folder), context({m for run in runs for m in run.modules})
    waiting = _Waiting(runs, store, on_record)
    active: dict[Connection, tuple[Run, BaseProcess, Claim]] = {}
    try:
        while waiting.runs or active:
            while len(active) < jobs and (claimed := waiting.next()):
                run, claim = claimed
                receiver, sender = processes.Pipe(duplex=False)
                process = processes.Process(  # type: ignore[attr-defined]
                    target=_child,
                    args=(run.spec, run.identity.digest, folder, threads, sender),
                    daemon=True,
                )
                active[receiver] = run, process, claim
                process.start()
                sender.close()
            if not active:
                time.sleep(POLL if waiting.runs else 0)
                continue
            for ready in wait(list(active), POLL if waiting.runs and len(active) < jobs else None):
                assert isinstance(ready, Connection)
                run, process, claim = active[ready]
                try:
                    message: RunRecord | str | None = ready.recv()
                except (EOFError, OSError):  # it is gone, or was while it spoke
                    process.join()
                    message = waiting.made(run) or f"{ENDED} {process.exitcode}"
                if message is None:
                    on_epoch(run)
                    continue
                del active[ready]
                ready.close()
                process.join()
                record = _failed(run, store, message) if isinstance(message, str) else message
                claim.release()
                on_record(run, record)
    finally:
        for _, process, claim in active.values():
            if process.pid is not None:
                process.terminate()
                process.join()
            claim.release()
        store.remove_empty_folders()


class _Waiting:
    """Runs that nobody has begun, as far as this sweep knows.

    Args:
        runs: what to do.
        store: where records go.
        on_record: called with what others have made in the meantime.
    """

    def __init__(
        self, runs: Iterable[Run], store: Store, on_record: Callable[[Run, RunRecord], None]
    ) -> None:
        self.runs = list(runs)
        self._store, self._on_record = store, on_record
        self._before = {run.identity.digest: store.stamp(run.identity) for run in self.runs}
        self._told: set[str] = set()

    def next(self) -> tuple[Run, Claim] | None:
        """The first run that nobody else makes or has made; None if there is none for now."""
        for run in list(self.runs):
            path = self._store.claim_path(run.identity)
            claim = acquire(path)
            if claim is None:
                self._tell(run, path)
                continue
            self.runs.remove(run)
            made = self.made(run)
            if made is None:
                self._store.tidy(run.identity)
                return run, claim
            claim.release()
            self._on_record(run, made)
        return None

    def made(self, run: Run) -> RunRecord | None:
        """The record of a run that is done, or has failed since this sweep began."""
        status = self._store.status(run.identity)
        new = self._store.stamp(run.identity) != self._before[run.identity.digest]
        if _done(run, self._store) or (new and status == "failed"):
            return self._store.read(run.identity)
        return None

    def _tell(self, run: Run, path: Path) -> None:
        if run.identity.digest not in self._told:
            self._told.add(run.identity.digest)
            logger.info("%s is left to %s", run.identity.stem, holder(path) or "another sweep")


def _child(spec: RunSpec, digest: str, folder: Path, threads: int, progress: Connection) -> None:
    """Say None after each epoch, and at the end the record, or why there is none."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        run = prepare(spec)
        if run.identity.digest != digest:  # what this process has imported may be either
            raise UsageError("its code or data changed while it waited for its turn")
        progress.send(execute(run, Store(folder), lambda: progress.send(None)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except UsageError as error:
        progress.send(str(error))


def _end_with_parent() -> None:
    """End at once when the sweep's process is gone: its claims have lapsed, others go on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _failed(run: Run, store: Store, reason: str) -> RunRecord:
    """The record of a run whose process wrote none."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = failure(run, "failed", reason, now)
    store.write(record)
    return record
