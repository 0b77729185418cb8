"""Step times: over the baseline's, and of one row over another. Other work on a machine makes a
step longer and nothing makes it shorter, so that the least time is the one to compare."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from mtlbench.runs.record import RunRecord

MACHINE = ["device", "threads", "jobs"]
"""What step times have to share to be compared."""
StepTimes = Sequence[tuple[Hashable, float | None]]
"""Each with its machine."""


def step_ratios(runs: pd.DataFrame, baseline: pd.DataFrame, others: StepTimes) -> list[float]:
    """Step times over the least of the baseline's on the same machine, of as many runs at a time; a
    run of n times the epochs counts n steps as one.

    Args:
        runs: of a group.
        baseline: those of them that are the baseline's.
        others: step times of further runs of the baseline.
    """
    least: dict[Hashable, float] = {}
    own = zip(_machines(baseline), baseline["step_ms"], strict=True)
    for machine, step_ms in [*others, *own]:
        if step_ms is not None and step_ms > 0:
            least[machine] = min(step_ms, least.get(machine, math.inf))
    found = [least.get(machine) for machine in _machines(runs)]
    return list(runs["step_ms"] * runs["times"] / pd.Series(found, index=runs.index, dtype=float))


def _machines(runs: pd.DataFrame) -> list[Hashable]:
    """Machine of each run. Where no record says how many there were at a time, 0 does."""
    keys = runs[MACHINE].fillna({"jobs": 0})
    return list(keys.itertuples(index=False, name=None))


def machine_of(record: RunRecord) -> Hashable:
    """The machine of a record, as that of a run."""
    origin = record.provenance
    return (origin.device, origin.threads, origin.jobs or 0)


def time_ratio(times: Sequence[Any], machines: Sequence[Any]) -> float:
    """How long a step of one row takes, over a step of another: the least over the seeds that a
    machine ran, and of several machines the median.

    Of the machines that both ran on; and of all where the other is the baseline, as a time over the
    baseline's is of one machine by itself.

    Args:
        times: of both rows, over the baseline's, by seed.
        machines: of both rows, by seed.
    """
    least, other = (
        pd.Series(t, dtype=float).groupby(list(m)).min()
        for t, m in zip(times, machines, strict=True)
    )
    return float((least / (1 if (other == 1).all() else other)).median())
