"""COSMOS: a weighted sum, and a reward for the direction of the losses."""

import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.cosmos import COSMOS
from tests.models import assert_close, dense_view


def test_the_weights_are_the_derivatives_of_the_objective() -> None:
    view, r = dense_view(), torch.tensor([1.0, 1.0, 3.0]).double() / 5
    losses = view.losses.clone().requires_grad_()
    cosine = losses @ r / (losses.norm() * r.norm())
    (expected,) = torch.autograd.grad(losses @ r - 0.7 * cosine, losses)
    assert_close(COSMOS(3, lam=0.7, preference="1/1/3").weights(view), expected)


def test_without_a_reward_it_is_the_weighted_sum() -> None:
    w = COSMOS(3, lam=0.0, preference="1/1/2").weights(dense_view())
    assert_close(w, torch.tensor([0.25, 0.25, 0.5]).double())


def test_losses_of_zero() -> None:
    view = DenseView(torch.zeros(2), torch.ones(2, 2), [], torch.Generator())
    assert torch.isfinite(COSMOS(2).weights(view)).all()
