"""DB-MTL: averaged gradients of logarithms, all of one length."""

import pytest
import torch

from mtlbench.methods.db_mtl import DBMTL
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


def _step(method: DBMTL, seed: int) -> torch.Tensor:
    shared = method.aggregate(dense_view(seed=seed)).shared
    method.after_step(lambda: torch.ones(3))
    return shared


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_updates_are_those_of_the_recursion(decay: float) -> None:
    method, average = DBMTL(3, decay=decay), torch.zeros(3, 7).double()
    for t in range(1, 6):
        view, beta = dense_view(seed=t), 0.9 / t**decay
        for k in range(3):
            of_log = view.jacobian()[k] / (view.losses[k] + 1e-8)
            average[k] = beta * average[k] + (1 - beta) * of_log
        longest = max(float(average[k].norm()) for k in range(3))
        expected = sum(longest * average[k] / average[k].norm() for k in range(3))
        assert isinstance(expected, torch.Tensor)
        assert_close(_step(method, t), expected)


def test_heads_get_the_gradients_of_the_logarithms() -> None:
    view = dense_view()
    for k, own in enumerate(DBMTL(3).aggregate(view).heads):
        assert_close(own, view.head_grads()[k] / view.losses[k], 1e-7)


def test_state_moves_after_a_step_only_and_survives_a_resume() -> None:
    first, second = DBMTL(3), DBMTL(3)
    first.aggregate(dense_view())
    assert same(first.state_dict(), second.state_dict())
    for seed in range(2):
        _step(first, seed)
    second.load_state_dict(first.state_dict())
    assert torch.equal(_step(first, 5), _step(second, 5))


def test_a_resumed_stepper_goes_on_alike() -> None:
    first = make_stepper(tiny_model(), "db_mtl")
    first.step(single_batch(), mse)
    second = make_stepper(tiny_model(), "db_mtl")
    second.load_state_dict(first.state_dict())
    assert same(first.state_dict()["methods"], second.state_dict()["methods"])


def test_one_task_zero_rows_and_losses_of_zero() -> None:
    view = dense_view(1)
    assert_close(DBMTL(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[1] = 0
    view.losses[0] = 0
    assert torch.isfinite(DBMTL(3).aggregate(view).shared).all()
    view.jacobian().zero_()
    assert not DBMTL(3).aggregate(view).shared.any()


def _of_log(k: int, seed: int) -> torch.Tensor:
    view = dense_view(seed=seed)
    return view.jacobian()[k] / (view.losses[k] + 1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_task_begins_as_if_its_first_gradient_had_always_been_there(decay: float) -> None:
    late, steady = DBMTL(3, decay=decay), DBMTL(3, decay=decay)
    for _ in range(4):
        aggregate_part(late, [0, 1], 7)
        aggregate_part(steady, [0, 1, 2], 7)
    aggregate_part(late, [0, 1, 2], 7)
    aggregate_part(steady, [0, 1, 2], 7)
    assert_close(late.average, steady.average)


def test_a_task_that_was_away_has_an_average_as_long_as_the_others() -> None:
    some, all_of_it = DBMTL(3), DBMTL(3)
    for step in range(8):
        aggregate_part(some, [0, 1] if step in (2, 3, 5) else [0, 1, 2], 7)
        aggregate_part(all_of_it, [0, 1, 2], 7)
    assert_close(some.average, all_of_it.average)


def test_a_task_alone_is_plain_descent_and_its_average_follows() -> None:
    method = DBMTL(3)
    aggregate_part(method, [0, 1, 2], 0)
    assert_close(aggregate_part(method, [1], 1), dense_view(seed=1).jacobian()[1])
    assert_close(method.average[1], 0.9 * 0.1 * _of_log(1, 0) + 0.1 * _of_log(1, 1))
    assert_close(method.average[0], 0.1 * _of_log(0, 0))
