"""STCH: the gradient of the smooth maximum, after a warm-up on the logarithms."""

import pytest
import torch

from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import DenseView
from mtlbench.methods.stch import STCH
from tests.models import assert_close, dense_view

NADIR = torch.tensor([2.0, 0.5, 3.0])


@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
def test_the_weights_are_the_derivatives_of_the_objective(mu: float) -> None:
    method, view = STCH(3, mu=mu, warmup=0), dense_view()
    method.on_epoch_end(0, NADIR)
    losses = view.losses.clone().requires_grad_()
    f = (losses / NADIR).log()
    (expected,) = torch.autograd.grad(3 * mu * (f / mu).exp().sum().log(), losses)
    assert_close(method.weights(view), expected)


def test_the_warm_up_is_on_logarithms_and_its_last_epoch_is_the_reference_point() -> None:
    method, view = STCH(3, warmup=2), dense_view()
    for epoch in range(3):
        assert_close(method.weights(view), 1 / view.losses)
        method.on_epoch_end(epoch, NADIR + 2 - epoch)
    method.on_epoch_end(3, 10 * NADIR)
    assert torch.equal(method.nadir, NADIR)
    resumed = STCH(3, warmup=2)
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.weights(view), method.weights(view))
    assert not torch.allclose(method.weights(view), 1 / view.losses)


def test_one_task_and_losses_of_zero() -> None:
    view = dense_view(1)
    assert_close(STCH(1).aggregate(view).shared, view.jacobian()[0])
    method = STCH(2, warmup=0)
    zero = DenseView(torch.tensor([0.0, 1.0]), torch.ones(2, 2), [], torch.Generator())
    assert torch.isfinite(method.weights(zero)).all()
    method.on_epoch_end(0, zero.losses)
    assert torch.isfinite(method.weights(zero)).all()


def test_a_task_without_a_reference_point_is_none_of_the_others_business() -> None:
    """It was absent until now, and its loss may be of any size."""
    method, view = STCH(3, warmup=0), dense_view()
    method.on_epoch_end(0, torch.tensor([2.0, 0.5, torch.nan]))
    view.losses[2] = 1e6
    w = method.weights(view)
    with restricted(method, [0, 1]):
        pair = DenseView(view.losses[:2], view.jacobian()[:2], [], view.generator)
        assert_close(w[:2], method.weights(pair))
    assert float(w[2] * view.losses[2]) == pytest.approx(1)
