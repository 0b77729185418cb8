"""GLS: the gradient of the geometric mean."""

import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.gls import GLS
from tests.models import assert_close, dense_view


def test_the_weights_are_the_derivatives_of_the_geometric_mean() -> None:
    view = dense_view()
    losses = view.losses.clone().requires_grad_()
    (expected,) = torch.autograd.grad(losses.prod() ** (1 / 3), losses)
    assert_close(GLS(3).weights(view), expected)
    assert_close(GLS(3).aggregate(view).shared, expected @ view.jacobian())


def test_one_task_losses_of_zero_and_products_out_of_range() -> None:
    view = dense_view(1)
    assert_close(GLS(1).aggregate(view).shared, view.jacobian()[0])
    for losses in (torch.tensor([0.0, 1.0]), torch.full((100,), 1e6), torch.full((100,), 1e-6)):
        K = len(losses)
        w = GLS(K).weights(DenseView(losses, torch.ones(K, 2), [], torch.Generator()))
        assert torch.isfinite(w).all()
        assert K == 2 or torch.allclose(w, torch.full((K,), 1 / K))
