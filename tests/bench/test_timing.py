"""Timing and memory."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from mtlbench.bench.peak import peak_memory
from mtlbench.bench.timing import Case, Contest, measure, time_rounds
from tests.bench.plans import CPU


def test_the_ratio_is_that_of_the_sums_of_the_calls() -> None:
    wait = partial(time.sleep, 0.002)
    case = Case("waiting", 0.6, lambda: Contest(wait, [wait, wait]))
    row = measure(case, rounds=5, seconds=0, device=CPU)
    assert (row.case, row.rounds) == ("waiting", 5)
    assert row.ours_ms >= 2
    assert row.reference_ms >= 4
    assert row.ratio_low <= row.ratio <= row.ratio_high
    assert row.met == (row.ratio <= 0.6)
    undemanded = Case("waiting", None, lambda: Contest(wait, [wait]))
    assert measure(undemanded, rounds=1, seconds=0, device=CPU).met is None


def test_every_side_is_first_in_turn() -> None:
    order: list[str] = []
    sides = [[partial(order.append, name)] for name in "abc"]
    times = time_rounds(sides, rounds=3, seconds=0, device=CPU)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert [len(side.wall) for side in times] == [3, 3, 3]
    order.clear()
    time_rounds(sides, rounds=1, seconds=0.01, device=CPU)
    assert len(order) > 9  # as many rounds as fit


def test_peak_memory_is_what_is_in_use_at_a_time() -> None:
    def run() -> None:
        for _ in range(3):
            one = torch.zeros(2**18)  # of 1 MiB
            two = torch.cat([one, one])
            del one, two

    assert peak_memory(run, CPU) == pytest.approx(3, abs=0.01)
    assert peak_memory(lambda: None, CPU) == 0
    assert peak_memory(run, torch.device("meta")) is None
