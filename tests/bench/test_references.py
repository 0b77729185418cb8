"""The hand-written step, and the passes that a step is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from mtlbench.bench.references import HandWritten, passes, period, run_pass
from mtlbench.bench.workloads import cnn
from mtlbench.registry import METHODS
from tests.bench.plans import CPU, TINY


@pytest.mark.parametrize("method", [n for n in METHODS.names() if not METHODS.get(n).info.further])
def test_hand_written_step_is_the_same_step(method: str) -> None:
    work = cnn(TINY, 0, CPU)
    stepper, hand = work.stepper(method, "none"), HandWritten(work, method)
    for optimizer in (stepper.optimizer, hand.optimizer):
        optimizer.param_groups[0]["lr"] = 1e-2
    for _ in range(3):
        stepper.step(work.batch, work.loss)
        hand()
    theirs = dict(hand.model.named_parameters())
    for name, mine in stepper.model.named_parameters():
        torch.testing.assert_close(mine, theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "sharpness", "forwards", "backwards", "parts"),
    [
        ("ls", "none", 1, 1, 1),
        ("famo", "none", 2, 1, 1),
        ("mgda", "none", 1, 3, 1),
        ("ls", "sam", 2, 2, 1),
        ("mgda", "sam", 2, 4, 1),
        ("ls", "samo", 10, 4, 1),
        ("famo", "samo", 11, 4, 1),
        ("mgda", "fmtl", 4, 6, 2),
        ("ls", "lsam", 4, 6, 1),
        ("mgda", "lsam", 4, 6, 1),
    ],
)
def test_passes_of_a_step(
    method: str, sharpness: str, forwards: int, backwards: int, parts: int
) -> None:
    work = cnn(TINY, 0, CPU)
    calls = passes(work, method, sharpness)
    assert period(work.stepper(method, sharpness)) == 1
    assert _traced(calls) == (forwards, backwards)
    assert len(calls) == forwards + parts + 1
    for call in calls:
        call()


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"), [("ls", 4, 1 + 3 + 1), ("mgda", 4, 1 + 3 * 3)]
)
def test_steps_of_different_costs_are_timed_together(
    method: str, forwards: int, backwards: int
) -> None:
    work, sharpness = cnn(TINY, 0, CPU), "looksam:every=3"
    calls = passes(work, method, sharpness)
    assert period(work.stepper(method, sharpness)) == 3
    assert _traced(calls) == (forwards, backwards)
    for call in calls:
        call()


@pytest.mark.parametrize(("method", "on_rows"), [("ls", False), ("mgda", True)])
def test_passes_that_tasks_share(method: str, on_rows: bool) -> None:
    work, sharpness = cnn(TINY, 0, CPU), "samo:noise=shared,points=by-sign"
    calls, stepper = passes(work, method, sharpness), work.stepper(method, sharpness)
    stepper.step(work.batch, work.loss)
    assert _traced(calls) == (stepper.passes.forward, stepper.passes.backward)
    alone = [call.func.__name__ for call in calls if isinstance(call, partial)]
    assert ("aggregate" in alone, "weights" in alone) == (on_rows, not on_rows)
    for call in calls:
        call()


def _traced(calls: list[Callable[[], object]]) -> tuple[int, int]:
    """Forward and backward passes."""
    traced = [call.args[1] for call in calls if getattr(call, "func", None) is run_pass]  # type: ignore[attr-defined]
    return len(traced), sum(p.backward for p in traced)
