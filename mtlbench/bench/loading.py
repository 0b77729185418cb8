"""How fast a data set on disk gives its examples, against how fast a step takes them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mtlbench.data.loader import Feed
from mtlbench.engine.randomness import seeded
from mtlbench.errors import UsageError
from mtlbench.hardware import Stopwatch, synchronize
from mtlbench.interfaces import Batch, Task
from mtlbench.registry import SHARPNESS, Spec, baseline
from mtlbench.runs.spec import build_task
from mtlbench.training.trainer import Trainer

SEED = 0
WARM_UP, STEPS = 1, 3
CACHE = "MTLBENCH_CACHE"


@dataclass(frozen=True)
class LoadingCase:
    """A number of processes that fetch batches."""

    workers: int

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.workers} workers"


@dataclass(frozen=True)
class LoadingRow:
    """What was measured; rates are examples a second.

    Args:
        open_s: seconds until the task is there, with an empty cache.
        again_s: seconds the next time.
        cold: rate of the first pass, with what it makes for later ones.
        warm: rate of a pass of the next run.
        step: rate at which a step of the baseline trains.
    """

    case: str
    workers: int
    open_s: float
    again_s: float
    cold: float
    warm: float
    step: float

    @property
    def fed(self) -> float:
        """Examples that are there for each that a step takes."""
        return self.warm / self.step


@dataclass(frozen=True)
class Loading:
    """Measures one task, on data in a folder, with a cache of its own that is empty at first.

    Args:
        task: name and options.
        data: the folder.
        protocol: one of the task's; None for the first.
        batches: that a pass has at most; None for all.
        device: where batches are brought to.
        step: examples a second of a step.
    """

    task: str
    data: Path
    protocol: str | None
    batches: int | None
    device: torch.device
    step: float

    def measured(self, case: LoadingCase) -> LoadingRow:
        """Two runs, one after the other."""
        with _empty_cache():
            (open_s, cold), (again_s, warm) = (self._run(case.workers) for _ in range(2))
        return LoadingRow(case.name, case.workers, open_s, again_s, cold, warm, self.step)

    def _run(self, workers: int) -> tuple[float, float]:
        """Seconds to open the task, and the rate of a pass."""
        start = time.perf_counter()
        task = opened(self.task, self.protocol, self.data)
        seconds = time.perf_counter() - start
        start, n = time.perf_counter(), 0
        with closing(Feed(self.device, workers)(task.batches("train", SEED))) as fed:
            for batch in islice(fed, self.batches):
                n += examples(batch)
        synchronize(self.device)
        return seconds, n / (time.perf_counter() - start)


def opened(task: str, protocol: str | None, data: Path) -> Task:
    """A task on a folder.

    Raises:
        UsageError: no such task or protocol, or the folder is not in order.
    """
    return build_task(Spec.parse(task), protocol, data)[0]


def step_rate(task: Task, device: torch.device) -> float:
    """Examples a second that the baseline trains on, in the median of a few steps.

    Raises:
        UsageError: the task has no batch.
    """
    batch: Batch | None = next(iter(task.batches("train", SEED)), None)
    if batch is None:
        raise UsageError(f"task {task.info.name!r} has no batch to train on")
    with seeded(SEED):
        stepper = Trainer(
            task,
            task.info.objectives,
            architecture=task.protocol.arch,
            method=Spec(baseline()),
            sharpness=Spec(SHARPNESS.default),
            seed=SEED,
            device=device,
        ).stepper
        groups, watch = [group.to(device) for group in batch], Stopwatch(device)
        for _ in range(WARM_UP + STEPS):
            with watch.lap():
                stepper.step(groups, task.loss)
    return examples(batch) / statistics.median(watch.seconds()[WARM_UP:])


def examples(batch: Batch) -> int:
    """How many a batch has, of all groups."""
    return sum(max(map(len, group.targets.values())) for group in batch)


def cases(workers: Sequence[int]) -> list[LoadingCase]:
    """In the order of the table."""
    return [LoadingCase(n) for n in workers]


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get(CACHE)
    with TemporaryDirectory(prefix="mtlbench-", ignore_cleanup_errors=True) as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if before is not None:
                os.environ[CACHE] = before
