"""MoCo: tracked gradients and projected weights."""

from typing import Any

import cvxpy as cp
import pytest
import torch

from mtlbench.methods._simplex import project_simplex
from mtlbench.methods.moco import MoCo
from tests.models import (
    aggregate_part,
    assert_close,
    dense_view,
    make_stepper,
    mse,
    same,
    single_batch,
    tiny_model,
)

OPTIONS: dict[str, Any] = {"beta": 0.5, "gamma": 0.05, "rho": 0.1, "decay": 0.5}


def _step(method: MoCo, seed: int) -> torch.Tensor:
    shared = method.aggregate(dense_view(seed=seed)).shared
    method.after_step(lambda: torch.ones(3))
    return shared


def test_the_updates_are_those_of_the_recursion() -> None:
    method = MoCo(3, **OPTIONS)
    Y, v = dense_view(seed=0).jacobian(), torch.full((3,), 1 / 3, dtype=torch.float64)
    for t in range(1, 6):
        J, beta, gamma = dense_view(seed=t - 1).jacobian(), 0.5 / t**0.5, 0.05 / t**0.5
        Y = torch.stack([Y[k] - beta * (Y[k] - J[k]) for k in range(3)])
        moved = v - gamma * ((Y @ Y.T + 0.1 * torch.eye(3)) @ v)
        x = cp.Variable(3, nonneg=True)
        cp.Problem(cp.Minimize(cp.sum_squares(x - moved.numpy())), [cp.sum(x) == 1]).solve()
        v = torch.from_numpy(x.value)
        assert_close(_step(method, t - 1), Y.T @ v, 1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e24])
def test_projections_lie_on_the_simplex_at_every_scale(scale: float) -> None:
    w = project_simplex(torch.tensor([-1.0, -2.0, 3.0, 3.0]).double() * scale)
    assert float(w.sum()) == pytest.approx(1)
    assert w.min() >= 0


def test_copies_of_a_task_give_its_gradient_and_heads_have_their_own() -> None:
    method, view = MoCo(3), dense_view()
    view.jacobian()[1:] = view.jacobian()[0]
    for _ in range(3):
        update = method.aggregate(view)
        method.after_step(lambda: torch.ones(3))
        assert_close(update.shared, view.jacobian()[0])
        assert all(map(torch.equal, update.heads, view.head_grads()))


def test_state_moves_after_a_step_only_and_survives_a_resume() -> None:
    first, second = MoCo(3), MoCo(3)
    first.aggregate(dense_view())
    assert same(first.state_dict(), second.state_dict())
    second.load_state_dict(first.state_dict())
    for seed in range(2):
        _step(first, seed)
    second.load_state_dict(first.state_dict())
    assert torch.equal(_step(first, 5), _step(second, 5))


def test_a_resumed_stepper_goes_on_alike() -> None:
    first = make_stepper(tiny_model(), "moco")
    first.step(single_batch(), mse)
    second = make_stepper(tiny_model(), "moco")
    second.load_state_dict(first.state_dict())
    assert same(first.state_dict()["methods"], second.state_dict()["methods"])


def test_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(MoCo(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[1:] = 0
    assert torch.isfinite(MoCo(3).aggregate(view).shared).all()


def test_a_row_begins_at_its_tasks_first_gradient() -> None:
    method, early = MoCo(3, **OPTIONS), MoCo(3, **OPTIONS)
    for seed in range(3):
        aggregate_part(method, [0, 1], seed)
    aggregate_part(method, [0, 1, 2], 3)
    assert_close(method.tracked[2], dense_view(seed=3).jacobian()[2])
    for seed in (3, 4):
        aggregate_part(early, [0, 1, 2], seed)
    aggregate_part(method, [0, 1, 2], 4)
    assert_close(method.tracked[2], early.tracked[2])  # at the pace of its own second step


def test_a_task_alone_is_plain_descent_and_its_row_follows() -> None:
    method = MoCo(3, **OPTIONS)
    for seed in range(2):
        aggregate_part(method, [0, 1, 2], seed)
    before, v = method.tracked.clone(), method.simplex.clone()
    J = dense_view(seed=2).jacobian()
    assert_close(aggregate_part(method, [1], 2), J[1])
    assert_close(method.tracked[1], before[1] + 0.5 / 3**0.5 * (J[1] - before[1]))
    assert torch.equal(method.tracked[[0, 2]], before[[0, 2]])
    assert torch.equal(method.simplex, v)


def test_the_tasks_that_are_there_share_their_weight() -> None:
    method = MoCo(3, **OPTIONS)
    for seed in range(6):
        aggregate_part(method, [[0, 1, 2], [0, 1], [2], [1, 2]][seed % 4], seed)
        assert float(method.simplex.sum()) == pytest.approx(1)


def test_the_task_that_holds_all_the_weight_may_be_absent() -> None:
    method = MoCo(3, **OPTIONS)
    aggregate_part(method, [0, 1, 2], 0)
    method.simplex = torch.tensor([0.0, 1.0, 0.0]).double()
    shared = aggregate_part(method, [0, 2], 1)
    assert torch.isfinite(shared).all()
    assert shared.any()
    assert method.simplex.tolist() == [0, 1, 0]
