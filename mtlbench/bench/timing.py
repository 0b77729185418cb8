"""Two ways to do the same, timed in turns in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mtlbench.hardware import synchronize

WARM_UP_ROUNDS = 2
MOST_ROUNDS = 400


Call = Callable[[], object]
Side = Sequence[Call]
"""Calls whose times are added up, each timed alone."""


@dataclass(frozen=True)
class Contest:
    """Two ways to do the same."""

    ours: Call
    reference: Side


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        name: unique.
        target: bound of our time over the reference's; None where nothing is demanded.
        prepare: builds what is compared; called when its turn has come.
    """

    name: str
    target: float | None
    prepare: Callable[[], Contest]


@dataclass(frozen=True)
class Row:
    """A measured case: medians over the rounds, the ratio's of the ratios of single rounds."""

    case: str
    ours_ms: float
    reference_ms: float
    ratio: float
    ratio_low: float
    """Lower quartile of the rounds' ratios."""
    ratio_high: float
    """Upper quartile."""
    cpu_ratio: float
    """The same ratio of this process's CPU time, which other processes disturb less."""
    target: float | None
    met: bool | None
    """None where there is no target."""
    rounds: int


def measure(case: Case, *, rounds: int, seconds: float, device: torch.device) -> Row:
    """Time a case. A round times both sides, in turns first and second.

    Args:
        case: what to time.
        rounds: at least so many.
        seconds: more rounds, as long as this has not passed.
        device: synchronised around every call.
    """

    contest = case.prepare()
    sides = ([contest.ours], contest.reference)
    ours, reference = time_rounds(sides, rounds=rounds, seconds=seconds, device=device)
    low, middle, high = quartiles(ratios(ours.wall, reference.wall))
    return Row(
        case=case.name,
        ours_ms=statistics.median(ours.wall),
        reference_ms=statistics.median(reference.wall),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=ratio(ours.cpu, reference.cpu),
        target=case.target,
        met=None if case.target is None else middle <= case.target,
        rounds=len(ours.wall),
    )


@dataclass(frozen=True)
class Times:
    """What a side took, in milliseconds, one entry a round."""

    wall: list[float]
    cpu: list[float]
    """CPU time of this process."""


def time_rounds(
    sides: Sequence[Side], *, rounds: int, seconds: float, device: torch.device
) -> list[Times]:
    """Time any number of sides; every round times all of them, another one first.

    Args:
        sides: whose calls to time.
        rounds: at least so many, after one or two that do not count.
        seconds: more rounds, as long as this has not passed.
        device: synchronised around every call.
    """
    end = time.perf_counter() + seconds
    for _ in range(WARM_UP_ROUNDS):
        for side in sides:
            _time(side, device)
        if time.perf_counter() > end:
            break
    times = [Times([], []) for _ in sides]
    with _no_garbage_collection():
        end = time.perf_counter() + seconds
        n = 0
        while n < rounds or (n < MOST_ROUNDS and time.perf_counter() < end):
            for i in range(len(sides)):
                turn = (i + n) % len(sides)
                wall, cpu = _time(sides[turn], device)
                times[turn].wall.append(wall)
                times[turn].cpu.append(cpu)
            n += 1
    return times


def _time(side: Side, device: torch.device) -> tuple[float, float]:
    """Wall time and CPU time in milliseconds, summed over the calls."""
    wall = cpu = 0.0
    for call in side:
        synchronize(device)
        start = time.perf_counter(), time.process_time()
        call()
        synchronize(device)
        wall += time.perf_counter() - start[0]
        cpu += time.process_time() - start[1]
    return 1000 * wall, 1000 * cpu


def ratios(ours: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Ratio of each round."""
    return [a / b for a, b in zip(ours, reference, strict=True)]


def ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(ratios(ours, reference))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, also of a single value."""
    low, median, high = statistics.quantiles([*values, *values], n=4, method="inclusive")
    return low, median, high


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Its pauses would hit one of the two sides."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
