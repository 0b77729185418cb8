"""What a sweep costs beyond the training and the evaluation of its runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from mtlbench.bench.plan import Part, Plan
from mtlbench.registry import baseline
from mtlbench.runs.backends.local import Local
from mtlbench.runs.spec import RunSpec
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep, unfinished


class Cells(Part):
    """Many short runs of the baseline on one task, a seed each."""

    task: str
    epochs: PositiveInt
    cells: PositiveInt
    jobs: PositiveInt
    overhead: PositiveFloat
    """Bound of the seconds that a run costs a worker beyond training and evaluation."""
    resume: PositiveFloat
    """Bound of the seconds after which a finished sweep is known to be one, for 1,000 runs."""


class SweepPlan(Plan):
    """What is measured: the contents of ``sweeps.yaml``."""

    file: ClassVar[str] = "sweeps.yaml"

    sweeps: list[Cells]


@dataclass(frozen=True)
class SweepCase:
    """A sweep to measure."""

    name: str
    cells: Cells


@dataclass(frozen=True)
class SweepRow:
    """A measured sweep; seconds are those of a run, but for ``wall`` and ``resume``."""

    case: str
    cells: int
    jobs: int
    wall: float
    train: float
    evaluation: float
    overhead: float
    """What is left of the workers' time, the sweep's own start included."""
    resume: float
    """To find that nothing is left to do, per 1,000 runs."""
    met: bool


def cases(plan: SweepPlan) -> Iterator[SweepCase]:
    """The cases of a plan, in the order of the table."""
    for each in plan.sweeps:
        yield SweepCase(f"{each.task}: {each.cells} cells, {each.jobs} jobs", each)


def measured(case: SweepCase) -> SweepRow:
    """Run a sweep in a folder that is removed afterwards, and look at it again."""
    wanted = case.cells
    requests = [
        RunSpec(wanted.task, baseline(), seed=seed, epochs=wanted.epochs, device="cpu")
        for seed in range(wanted.cells)
    ]
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        start = time.perf_counter()
        runs = checked(requests)
        modules = {module for run in runs for module in run.modules}
        sweep(runs, store, Local(wanted.jobs, modules))
        wall = time.perf_counter() - start
        start = time.perf_counter()
        left = unfinished(checked(requests), store)
        resume = (time.perf_counter() - start) * 1000 / wanted.cells
        records = list(store)
    assert not left
    assert len(records) == wanted.cells
    train = sum(record.train_seconds or 0.0 for record in records) / len(records)
    evaluation = sum(record.evaluation_seconds or 0.0 for record in records) / len(records)
    overhead = wall * wanted.jobs / len(records) - train - evaluation
    return SweepRow(
        case=case.name,
        cells=wanted.cells,
        jobs=wanted.jobs,
        wall=wall,
        train=train,
        evaluation=evaluation,
        overhead=overhead,
        resume=resume,
        met=overhead <= wanted.overhead and resume <= wanted.resume,
    )
