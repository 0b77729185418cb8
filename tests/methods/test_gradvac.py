"""GradVac: the loops of the paper, and averages that follow the cosines."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlbench.interfaces.gradients import inner_products
from mtlbench.methods.gradvac import GradVac
from tests.models import assert_close, dense_view, same

BETA = 0.3


def _paper(J: Tensor, target: Tensor, orders: Tensor) -> Tensor:
    """One step of the paper's algorithm; ``target`` moves in place."""
    K, total = len(J), torch.zeros_like(J[0])
    for i in range(K):
        g = J[i].clone()
        for j in (int(j) for j in orders[i] if int(j) != i):
            phi, t = g @ J[j] / (g.norm() * J[j].norm()), target[i, j].clone()
            if phi < t:
                across = (1 - t**2).sqrt()
                pull = g.norm() * (t * (1 - phi**2).sqrt() - phi * across)
                g = g + pull / (J[j].norm() * across) * J[j]
            target[i, j] = (1 - BETA) * t + BETA * phi
        total += g
    return total


def test_updates_and_averages_are_those_of_the_papers_loops() -> None:
    method, target = GradVac(4, beta=BETA), torch.zeros(4, 4).double()
    pulled = 0
    for step in range(6):
        view = dense_view(4, 5, seed=step)
        view.jacobian()[1:] += view.jacobian()[0]
        state = view.generator.get_state()
        orders = torch.rand(4, 4, generator=view.generator).argsort(dim=1)
        view.generator.set_state(state)
        expected = _paper(view.jacobian(), target, orders)
        update = method.aggregate(view)
        method.after_step(lambda: torch.ones(4))
        assert_close(update.shared, expected, 1e-8)
        assert_close(method.targets, target, 1e-8)
        assert all(map(torch.equal, update.heads, view.head_grads()))
        pulled += not torch.allclose(expected, view.jacobian().sum(0))
    assert pulled >= 3


def test_a_pulled_gradient_has_the_cosine_that_was_aimed_at() -> None:
    view, method = dense_view(2), GradVac(2)
    method.targets.fill_(0.9)
    J, w = view.jacobian(), method.weights(view)
    a, b = J[0] + (w[1] - 1) * J[1], J[1] + (w[0] - 1) * J[0]
    assert torch.allclose(torch.cosine_similarity(a, J[1], 0), torch.tensor(0.9).double())
    assert torch.allclose(torch.cosine_similarity(b, J[0], 0), torch.tensor(0.9).double())


def test_state_moves_after_a_step_only_and_survives_a_resume() -> None:
    first, second = GradVac(3), GradVac(3)
    first.weights(dense_view())
    assert same(first.state_dict(), second.state_dict())
    first.after_step(lambda: torch.ones(3))
    assert first.targets.any()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weights(dense_view(seed=1)), second.weights(dense_view(seed=1)))


def test_one_task_zero_rows_and_opposite_rows() -> None:
    view = dense_view(1)
    assert_close(GradVac(1).aggregate(view).shared, view.jacobian()[0])
    for rows in ([1], [0, 1, 2]):
        view, method = dense_view(), GradVac(3)
        method.targets.fill_(1)
        view.jacobian()[0] = -view.jacobian()[2]
        view.jacobian()[rows] = 0
        assert torch.isfinite(method.weights(view)).all()
        assert method.diagnostics() == {"solver_fallbacks": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cosine_of_what_is_left_of_a_cancelled_gradient_is_not_learnt(
    dtype: torch.dtype,
) -> None:
    """After g has met -g, rounding error is left, which went into the averages as any number."""
    J = dense_view(3, 9).jacobian().to(dtype)
    J[1] = -J[0]
    for seed in range(10):
        method = GradVac(3, beta=0.5)
        method._orders = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])
        signs = torch.randint(-1, 2, J.shape, generator=torch.Generator().manual_seed(seed))
        nudged = J * (1 + signs.to(dtype) * torch.finfo(dtype).eps)
        method.resolution = float(torch.finfo(dtype).eps)
        method.solve(inner_products(nudged).numpy(), np.ones(3))
        method.after_step(lambda: torch.ones(3))
        assert float(method.targets[0, 2]) == float(method.targets[1, 2]) == 0
