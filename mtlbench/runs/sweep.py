"""Many runs, each in a process of its own: a crash is a record, an interrupt loses at most an
epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mtlbench.processes import INTERRUPTED, TERMINATED, end_with_parent, stop
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.runs.execute import execute, failure
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.workers import context

DONE = ("ok", "diverged")
"""Statuses that are not run again; a failed run is."""


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
    """Those that have no record yet, a failed one, or one without the model that is wanted."""
    kept = []
    for run in runs:
        record = store.read(run.identity)
        if record is None or record.status not in DONE or _lacks_model(run, record, store):
            kept.append(run)
    return kept


def _lacks_model(run: Run, record: RunRecord, store: Store) -> bool:
    kept = store.model_path(run.identity)
    return run.keeps_model and record.status == "ok" and not kept.exists()


def sweep(
    runs: Sequence[Run],
    folder: Path,
    *,
    jobs: int,
    threads: int,
    on_epoch: Callable[[Run], None] = lambda run: None,
    on_record: Callable[[Run, RunRecord], None] = lambda run, record: None,
) -> None:
    """Execute runs, ``jobs`` at a time.

    Args:
        runs: what to do.
        folder: where records and checkpoints go.
        jobs: processes at a time.
        threads: torch threads of each.
        on_epoch: called after each epoch of a run.
        on_record: called with each finished run.
    """
    store, processes = Store(folder), context({m for run in runs for m in run.modules})
    waiting = deque(runs)
    active: dict[Connection, tuple[Run, BaseProcess]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.popleft()
                receiver, sender = processes.Pipe(duplex=False)
                process = processes.Process(  # type: ignore[attr-defined]
                    target=_child, args=(run.spec, folder, threads, sender), daemon=True
                )
                process.start()
                sender.close()
                active[receiver] = run, process
            for ready in wait(list(active)):
                assert isinstance(ready, Connection)
                run, process = active[ready]
                try:
                    ready.recv()
                    on_epoch(run)
                except EOFError:
                    del active[ready]
                    ready.close()
                    process.join()
                    on_record(run, _result(run, store, process, threads))
    finally:
        stop(process for _, process in active.values())


def _child(spec: RunSpec, folder: Path, threads: int, progress: Connection) -> None:
    end_with_parent()
    torch.set_num_threads(threads)  # also for what comes before the run itself
    try:
        execute(prepare(spec), Store(folder), partial(_tell, progress), threads=threads)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _tell(progress: Connection) -> None:
    try:
        progress.send(None)
    except OSError:  # the sweep is gone, and the run is not at its end
        raise SystemExit(TERMINATED) from None


def _result(run: Run, store: Store, process: BaseProcess, threads: int) -> RunRecord:
    """What the process wrote; a record of its death if that is older than the run, or not there."""
    record = store.read(run.identity) if process.exitcode == 0 else None
    if record is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        reason = f"the run's process ended with exit code {process.exitcode}"
        record = failure(run, "failed", reason, now, threads)
        store.write(record)
    return record
