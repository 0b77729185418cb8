"""IMTL-L: every weighted loss is drawn to 1."""

import torch
from torch import Tensor

from mtlbench.methods.imtl_l import IMTLL
from tests.models import assert_close, dense_view, same, snapshot


def _unused() -> Tensor:
    raise AssertionError("IMTL-L needs no loss after the step")


def _steps(method: IMTLL, n: int) -> None:
    for _ in range(n):
        method.weights(dense_view())
        method.after_step(_unused)


def test_the_scales_are_those_of_autograd() -> None:
    method, view = IMTLL(3, lr=0.01), dense_view()
    s = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.01)
    for _ in range(5):
        assert_close(method.weights(view), s.detach().exp().double(), 1e-6)
        method.after_step(_unused)
        optimizer.zero_grad()
        (s.exp() * view.losses.float() - s).sum().backward()
        optimizer.step()


def test_the_weighted_losses_settle_at_one() -> None:
    method, view = IMTLL(3, lr=0.05), dense_view()
    _steps(method, 200)
    assert torch.allclose(method.weights(view) * view.losses, torch.ones(3).double(), rtol=1e-2)


def test_state_moves_after_a_step_only_and_survives_a_resume() -> None:
    first, second = IMTLL(3), IMTLL(3)
    _steps(first, 3)
    second.load_state_dict(*snapshot(first.state_dict()))
    first.weights(dense_view())
    assert same(first.state_dict(), second.state_dict())
    for method in (first, second):
        _steps(method, 2)
    assert same(first.state_dict(), second.state_dict())


def test_one_task_is_plain_descent() -> None:
    view = dense_view(1)
    assert_close(IMTLL(1).aggregate(view).shared, view.jacobian()[0])
