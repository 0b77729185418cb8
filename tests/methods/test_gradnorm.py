"""GradNorm: weights that follow the gradient of the paper's loss."""

import pytest
import torch
from torch import Tensor

from mtlbench.interfaces import DenseView
from mtlbench.methods.gradnorm import GradNorm
from tests.models import assert_close, dense_view, same, snapshot

JACOBIAN = dense_view().jacobian() * torch.tensor([[1.0], [5.0], [0.2]])


def _view(losses: list[float]) -> DenseView:
    return DenseView(torch.tensor(losses).double(), JACOBIAN, [], torch.Generator())


def _unused() -> Tensor:
    raise AssertionError("GradNorm needs no loss after the step")


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_the_weights_are_those_of_autograd(alpha: float) -> None:
    method = GradNorm(3, alpha=alpha)
    w = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.025)
    for step in range(6):
        losses = [4.0 / (1 + step), 2.0 - 0.1 * step, 1.0]
        assert_close(method.weights(_view(losses)), w.detach().double(), 1e-5)
        method.after_step(_unused)
        size = torch.stack([w[k] * JACOBIAN[k].norm() for k in range(3)]).float()
        ratio = torch.tensor([losses[0] / 4, losses[1] / 2, losses[2] / 1])
        target = size.mean().detach() * (ratio / ratio.mean()) ** alpha
        optimizer.zero_grad()
        (size - target).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            w.mul_(3 / w.sum())


def test_equal_rates_lead_to_equal_norms() -> None:
    method = GradNorm(3, lr=0.01)
    for _ in range(400):
        w = method.weights(_view([1.0, 2.0, 3.0]))
        method.after_step(_unused)
    sizes = w * JACOBIAN.norm(dim=1)
    assert float(w.sum()) == pytest.approx(3)
    assert sizes.max() / sizes.min() < 1.3


def test_state_moves_after_a_step_only_and_survives_a_resume() -> None:
    first, second = GradNorm(3), GradNorm(3)
    first.weights(_view([1.0, 2.0, 3.0]))
    assert same(first.state_dict(), second.state_dict())
    first.after_step(_unused)
    second.load_state_dict(*snapshot(first.state_dict()))
    for method in (first, second):
        method.weights(_view([1.0, 1.0, 3.0]))
        method.after_step(_unused)
    assert same(first.state_dict(), second.state_dict())


def test_one_task_zero_rows_and_losses_of_zero() -> None:
    view = dense_view(1)
    assert_close(GradNorm(1).aggregate(view).shared, view.jacobian()[0])
    method = GradNorm(3)
    for _ in range(200):
        w = method.weights(DenseView(torch.zeros(3), torch.zeros(3, 2), [], torch.Generator()))
        method.after_step(_unused)
        assert torch.isfinite(w).all()
