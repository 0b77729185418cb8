"""SI: the gradient of the sum of logarithms."""

import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.si import SI
from tests.models import assert_close, dense_view


def test_the_weights_are_the_derivatives_of_the_sum_of_logarithms() -> None:
    view = dense_view()
    losses = view.losses.clone().requires_grad_()
    (expected,) = torch.autograd.grad(losses.log().sum(), losses)
    assert_close(SI(3).weights(view), expected)
    assert_close(SI(3).aggregate(view).shared, expected @ view.jacobian())


def test_one_task_and_losses_of_zero() -> None:
    view = dense_view(1)
    assert_close(SI(1).aggregate(view).shared, view.jacobian()[0])
    zero = DenseView(torch.tensor([0.0, 1.0]), torch.ones(2, 2), [], torch.Generator())
    assert torch.isfinite(SI(2).weights(zero)).all()
