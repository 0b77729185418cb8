"""What a sweep will cost: passes, and seconds by what earlier runs of this machine took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from mtlbench.hardware import describe
from mtlbench.runs.effort import BACKWARD, effort_of_epoch
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run

Key = tuple[str, ...]


def passes(run: Run) -> float:
    """Passes of a run's training, in forward passes."""
    batches = run.task.batches("train", 0)
    n: int = len(batches)  # type: ignore[arg-type]
    return effort_of_epoch(run) * n * run.total_epochs


def seconds(runs: Iterable[Run], records: Iterable[RunRecord]) -> list[float]:
    """How long each run's training will take; NaN where nothing on this machine tells.

    A record of the same cell of another seed tells it; else its passes do, at the pace of the
    records of the same task, protocol, device and number of processes.
    """
    known = _Pace(records)
    return [known.of(run) for run in runs]


class _Pace:
    """Seconds an epoch, of cells; and of tasks for each pass of a step."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._cells: dict[Key, list[float]] = {}
        self._tasks: dict[Key, list[float]] = {}
        for record in records:
            if record.status != "ok" or record.train_seconds is None:
                continue
            task, cell = _keys(record.identity, record.provenance.device)
            epoch = record.train_seconds / record.identity.epochs
            step = sum(p.forwards_per_step + BACKWARD * p.backwards_per_step for p in record.phases)
            self._cells.setdefault(cell, []).append(epoch)
            self._tasks.setdefault(task, []).append(epoch / step)

    def of(self, run: Run) -> float:
        task, cell = _keys(run.identity, describe(run.device))
        if cell in self._cells:
            return median(self._cells[cell]) * run.identity.epochs
        if task in self._tasks:
            return median(self._tasks[task]) * effort_of_epoch(run) * run.total_epochs
        return math.nan


def _keys(identity: RunIdentity, machine: str) -> tuple[Key, Key]:
    """What runs of one task share, and what runs of one cell do."""
    words = (identity.task, identity.protocol, identity.architecture, identity.data_source)
    task = (*words, machine, str(identity.ranks))
    options = (
        str(sorted(o.items())) for o in (identity.method_options, identity.sharpness_options)
    )
    return task, (*task, identity.method, identity.sharpness, *options)
