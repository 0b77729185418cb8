"""Where runs are executed: in this process, in local workers, on a Ray cluster.

A backend takes runs from a queue as it has room for them, executes each with
:func:`mtlbench.runs.crew.carry_out`, and tells what happens. Results go through the store alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mtlbench.processes import LIMIT
from mtlbench.runs.events import Event, Watch
from mtlbench.runs.execute import Load, Watching
from mtlbench.runs.spec import Run
from mtlbench.runs.store import Store

PATIENCE = 0.2
"""Seconds between two questions to a queue that has nothing at the moment."""


class Queue(Protocol):
    """The runs of a sweep that are left."""

    def take(self) -> Run | None:
        """The next one, claimed; None if there is none at the moment."""

    def empty(self) -> bool:
        """Whether there will be none any more."""

    def ended(self, run: Run, death: str = "") -> None:
        """A run that was taken has ended; ``death`` says how its process died, if it did."""


@dataclass(frozen=True)
class Job:
    """What every backend gets.

    Args:
        queue: of the runs.
        store: where records and checkpoints go.
        watch: hears of events, in this process.
        threads: torch threads of each run.
        checkpoint_seconds: least time between two checkpoints of a run.
        logs: where learning curves go besides CSV files.
        workers: processes that fetch each run's batches ahead; None for as many as pay.
        limit: seconds that processes which train a run together wait for each other.
    """

    queue: Queue
    store: Store
    watch: Callable[[Run, Event], None]
    threads: int = 1
    checkpoint_seconds: float = 60.0
    logs: tuple[str, ...] = ()
    workers: int | None = None
    limit: float = LIMIT

    def watching(self, watch: Watch) -> Watching:
        """What a run is executed with, in whichever process."""
        return Watching(watch, self.checkpoint_seconds, self.logs)

    def load(self, jobs: int) -> Load:
        """What a run computes with, of so many at a time."""
        return Load(self.threads, jobs, self.workers, self.limit)


class Backend(ABC):
    """One way to execute runs."""

    @abstractmethod
    def work(self, job: Job) -> None:
        """Execute runs until the queue is empty; on an interrupt leave resumable runs behind and
        no process."""
