"""SLAW: weights inverse to the deviations of the losses."""

import torch

from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import DenseView
from mtlbench.methods.slaw import SLAW
from tests.models import assert_close

ONES = torch.ones(3, 2).double()


def _run(method: SLAW, losses: torch.Tensor, present: list[list[int]]) -> list[torch.Tensor]:
    """The weights of each step, on which these tasks have a label."""
    found = []
    for row, tasks in zip(losses, present, strict=True):
        with restricted(method, tasks):
            view = DenseView(row[tasks], ONES[tasks], [], torch.Generator())
            found.append(method.weights(view))
            method.after_step(lambda: ONES[0])
    return found


def _losses(steps: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    trend = 2 - torch.linspace(0, 1, steps)[:, None] * torch.tensor([1.0, 0.5, 0.2])
    return (trend + 0.05 * torch.randn(steps, 3, generator=g)).double()


def test_the_weights_are_those_of_the_recursion() -> None:
    beta, losses = 0.8, _losses(12)
    mean, square = torch.zeros(3).double(), torch.zeros(3).double()
    found = _run(SLAW(3, beta=beta), losses, [[0, 1, 2]] * 12)
    assert_close(found[0], torch.ones(3).double())
    for t, (w, row) in enumerate(zip(found, losses, strict=True)):
        rate = max(1 / (t + 1), 1 - beta)
        mean, square = mean + rate * (row - mean), square + rate * (row**2 - square)
        if t:
            inverse = 1 / (square - mean**2).sqrt()
            assert_close(w, 3 * inverse / inverse.sum(), 1e-8)


def test_a_task_that_begins_later_weighs_as_one_that_was_watched_all_the_time() -> None:
    """Where the losses fall on lines the deviations grow alike with the steps."""
    losses = 3 - torch.arange(20.0).double()[:, None] * torch.tensor([0.1, 0.05, 0.02]).double()
    late = [[0, 1]] * 10 + [[0, 1, 2]] * 10
    all_along = _run(SLAW(3), losses, [[0, 1, 2]] * 20)
    found = _run(SLAW(3), losses, late)
    assert_close(found[9].double(), all_along[9][:2] * 2 / all_along[9][:2].sum(), 1e-8)
    assert found[10][2] == 1
    for a, b in zip(found[11:], all_along[11:], strict=True):
        assert_close(a, b, 1e-8)


def test_losses_that_stand_still() -> None:
    for w in _run(SLAW(3), torch.ones(4, 3).double(), [[0, 1, 2]] * 4):
        assert_close(w, torch.ones(3).double())
