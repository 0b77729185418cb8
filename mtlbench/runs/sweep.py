"""Many runs: what is left of them, who is at them, and what became of them.

Several sweeps may share a folder, from several machines too: each claims what it makes, and waits
for what the others make.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Literal

from mtlbench.processes import LIMIT
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.runs.backends import Backend, Job
from mtlbench.runs.claims import Claim, acquire, holder
from mtlbench.runs.events import Event
from mtlbench.runs.execute import Load, failure
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, check_pair, prepare
from mtlbench.runs.store import Store

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
    return checked(wanted)


def checked(requests: Iterable[RunSpec]) -> list[Run]:
    """Requests as runs, each once."""
    runs = {run.identity.digest: run for run in map(prepare, dict.fromkeys(requests))}
    return list(runs.values())


# ------------------------------------------------------------------------------------ what is left
@dataclass(frozen=True)
class State:
    """How it stands with a run.

    Args:
        kind: "done"; "failed" (or diverged); "stale": there is a record of what the same words
            meant before a method, data or a protocol changed; "claimed": somebody is at it;
            "missing".
        detail: the reason, or who is at it.
    """

    run: Run
    kind: Literal["done", "failed", "stale", "claimed", "missing"]
    detail: str = ""


def state(run: Run, store: Store) -> State:
    """How it stands with a run in a store.

    Raises:
        UsageError: a later mtlbench made the folder; or the run is not done and cannot be, as its
            method and its wrapper do not go together.
    """
    status = store.status(run.identity)
    if status == "ok":
        missing = run.keeps_model and not store.model_path(run.identity).exists()
        return State(run, "missing", "its model is wanted") if missing else State(run, "done")
    check_pair(run)
    who = holder(store.claim_path(run.identity))
    if who is not None:
        return State(run, "claimed", str(who))
    if status is not None:
        record = store.read(run.identity)
        return State(run, "failed", "" if record is None else f"{status}: {record.reason}")
    older = store.others(run.identity)
    if older:
        return State(run, "stale", f"{older[0].name} is of another version")
    return State(run, "missing")


def unfinished(runs: Iterable[Run], store: Store, *, retry: bool = False) -> list[Run]:
    """Those that have no record yet, or lack the model that is wanted; with ``retry`` also those
    that failed or diverged."""
    left = ("missing", "stale", "claimed", *(("failed",) if retry else ()))
    return [run for run in runs if state(run, store).kind in left]


def tidy(runs: Iterable[Run], store: Store) -> None:
    """Remove what sweeps that were killed have left of runs that have ended."""
    begun = store.begun()
    for run in runs:
        if run.identity.stem in begun and state(run, store).kind in ("done", "failed"):
            claim, status = acquire(store.claim_path(run.identity)), store.status(run.identity)
            if claim is not None and status is not None:
                with claim:
                    store.tidy_ended(run.identity, status)
    store.remove_empty_folders()


# ------------------------------------------------------------------------------------ doing it
OnRecord = Callable[[Run, RunRecord], None]


class Remaining:
    """The queue of a sweep: runs are claimed as they are taken.

    A run that another sweep has claimed waits; once its record is there it counts as done.

    Args:
        runs: that are left.
        store: where records appear.
        on_record: called with each record, also with those that others made.
        threads: torch threads of each run.
    """

    def __init__(
        self, runs: Iterable[Run], store: Store, on_record: OnRecord, threads: int
    ) -> None:
        self._waiting, self._store, self._on_record = list(runs), store, on_record
        self._threads = threads
        self._before = {run.identity.digest: store.stamp(run.identity) for run in self._waiting}
        self._claims: dict[str, Claim] = {}
        self._told: set[str] = set()

    def take(self) -> Run | None:
        """The first run that nobody else makes or has made; None if there is none for now."""
        for run in list(self._waiting):
            path = self._store.claim_path(run.identity)
            claim = acquire(path)
            if claim is None:
                self._tell(run, path)
                continue
            self._waiting.remove(run)
            record = self._made(run)
            if record is None:
                self._store.tidy(run.identity)
                self._claims[run.identity.digest] = claim
                return run
            claim.release()
            self._on_record(run, record)
        return None

    def empty(self) -> bool:
        """Whether no run is left."""
        return not self._waiting

    def ended(self, run: Run, death: str = "") -> None:
        """Hear of the end of a run that was taken: its record is there, it was stopped, or there
        is none because of ``death``, which then is its record."""
        try:
            record = self._made(run)
            if record is None and death:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                record = failure(run, "failed", death, now, Load(self._threads))
                self._store.write(record)
            if record is not None:
                self._store.curves_path(run.identity).unlink(missing_ok=True)
                self._on_record(run, record)
        finally:
            self._claims.pop(run.identity.digest).release()

    def release(self) -> None:
        """Give back what was taken and has not ended."""
        while self._claims:
            self._claims.popitem()[1].release()

    def _made(self, run: Run) -> RunRecord | None:
        """The record of a run that has been made since this sweep began."""
        if self._store.stamp(run.identity) == self._before[run.identity.digest]:
            return None
        return None if self._store.status(run.identity) is None else self._store.read(run.identity)

    def _tell(self, run: Run, path: Path) -> None:
        if run.identity.digest not in self._told:
            self._told.add(run.identity.digest)
            logger.info("%s is left to %s", run.identity.stem, holder(path) or "another sweep")


def sweep(
    runs: Sequence[Run],
    store: Store,
    backend: Backend,
    *,
    threads: int = 1,
    checkpoint_seconds: float = 60.0,
    logs: Sequence[str] = (),
    workers: int | None = None,
    limit: float = LIMIT,
    watch: Callable[[Run, Event], None] = lambda run, event: None,
    on_record: OnRecord = lambda run, record: None,
) -> None:
    """Execute runs.

    Args:
        runs: what to do.
        store: where records and checkpoints go.
        backend: where they are executed.
        threads: torch threads of each.
        checkpoint_seconds: least time between two checkpoints of a run.
        logs: where learning curves go besides CSV files.
        workers: processes that fetch each run's batches ahead; None for as many as pay.
        limit: seconds that processes which train a run together wait for each other.
        watch: hears of events of runs.
        on_record: called with each finished run.
    """

    def heard(run: Run, event: Event) -> None:
        if event.kind == "step":
            logger.debug("%s: first step", run.identity.stem)
        watch(run, event)

    queue = Remaining(runs, store, on_record, threads)
    job = Job(queue, store, heard, threads, checkpoint_seconds, tuple(logs), workers, limit)
    try:
        backend.work(job)
    finally:
        queue.release()
        store.remove_empty_folders()
