"""GradNorm: weights that follow the gradient of the paper's loss."""

import pytest
import torch
from torch import Tensor

from mtlbench.engine.restrict import restricted
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


def _step(method: GradNorm, losses: list[float], tasks: list[int]) -> None:
    rows = JACOBIAN[tasks]
    heads = [rows[k, :2] for k in range(len(tasks))]
    now = torch.tensor([losses[k] for k in tasks]).double()
    with restricted(method, tasks):
        method.aggregate(DenseView(now, rows, heads, torch.Generator()))
        method.after_step(_unused)


@pytest.mark.parametrize("first", [[0, 1], [1]])
def test_a_tasks_rate_is_counted_from_its_own_first_loss(first: list[int]) -> None:
    """Also where it was alone then; the weights stay near those of complete labels."""
    method = GradNorm(3)
    _step(method, [4.0, 2.0, torch.nan], first)
    for _ in range(60):
        _step(method, [3.0, 1.5, 8.0], [0, 1, 2])
    assert method.initial.tolist() == [4.0 if 0 in first else 3.0, 2.0, 8.0]
    whole = GradNorm(3)
    for _ in range(60):
        _step(whole, [3.0, 1.5, 8.0], [0, 1, 2])
    assert (method.factors - whole.factors).abs().max() < 0.4


def test_tasks_that_are_there_share_what_they_have() -> None:
    method = GradNorm(3)
    with torch.no_grad():
        method.factors.copy_(torch.tensor([2.0, 0.6, 0.4]))
    for _ in range(5):
        _step(method, [1.0, 1.0, 1.0], [1, 2])
    first, second, third = method.factors.tolist()
    assert first == 2
    assert second + third == pytest.approx(1)
    assert second != pytest.approx(0.6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_norms_are_equal_up_to_rounding(dtype: torch.dtype) -> None:
    """The sign of a difference that is rounding was worth a full step of Adam."""
    row = JACOBIAN[0].to(dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        method, ulp = GradNorm(4), torch.finfo(dtype).eps
        for _ in range(5):
            signs = torch.randint(-1, 2, (4, len(row)), generator=generator).to(dtype)
            J = row * (1 + ulp * signs)
            losses = 1 + ulp * signs[:, 0]
            w = method.weights(DenseView(losses, J, [], torch.Generator()))
            method.after_step(_unused)
            assert torch.equal(w, torch.ones(4, dtype=dtype))
