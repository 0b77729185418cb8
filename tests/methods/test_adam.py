"""Adam with a count of steps for every task."""

import pytest
import torch
from torch import Tensor, nn

from mtlbench.engine.restrict import restricted
from mtlbench.methods._adam import TaskAdam
from mtlbench.methods.uw import UW
from tests.models import assert_close, dense_view


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_where_all_take_part_it_is_torchs(decay: float) -> None:
    ours, theirs = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    a = TaskAdam([ours], 0.02, weight_decay=decay)
    b = torch.optim.Adam([theirs], lr=0.02, weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        grad = torch.randn(4, generator=generator)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
        assert_close(ours.detach(), theirs.detach(), 1e-6)


def _trained(method: UW, losses: Tensor, tasks: list[int], steps: int) -> None:
    view = dense_view(len(tasks))
    view.losses = losses[tasks]
    for _ in range(steps):
        with restricted(method, tasks):
            method.weights(view)
            method.after_step(lambda: view.losses)


def test_a_task_that_begins_late_moves_as_those_that_began_early_did() -> None:
    """Torch's Adam would move it 3 times as far in the first step, and 5 times in 20 steps."""
    late, early = UW(3), UW(3)
    losses = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    _trained(late, losses, [0, 1], 2000)
    for _ in range(20):
        _trained(late, losses, [0, 1, 2], 1)
        _trained(early, losses, [0, 1, 2], 1)
        assert_close(late.log_variance.detach()[2], early.log_variance.detach()[2], 1e-6)
