"""PBI: the distance along a preferred direction and that to it."""

import pytest
import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.pbi import PBI
from tests.models import assert_close, dense_view


@pytest.mark.parametrize("theta", [0.0, 2.0])
def test_the_weights_are_the_derivatives_of_the_objective(theta: float) -> None:
    view = dense_view()
    losses, r = view.losses.clone().requires_grad_(), torch.tensor([1.0, 2.0, 2.0]).double() / 3
    along = losses @ r
    objective = along + theta * (losses - along * r).norm()
    (expected,) = torch.autograd.grad(objective, losses)
    assert_close(PBI(3, theta=theta, preference="1/2/2").weights(view), expected)


def test_losses_in_the_preferred_direction_leave_the_direction_alone() -> None:
    losses = torch.tensor([0.5, 1.0, 1.0]).double()
    view = DenseView(losses, torch.ones(3, 2).double(), [], torch.Generator())
    w = PBI(3, preference="1/2/2").weights(view)
    assert_close(w, torch.tensor([1.0, 2.0, 2.0]).double() / 3, 1e-6)


def test_descent_brings_the_losses_to_the_preferred_ratio() -> None:
    """Of quadratic losses about two points."""
    x, method = torch.tensor([0.9, 0.9]).double(), PBI(2, preference="1/3")
    points = torch.eye(2).double()
    for step in range(300):
        rows = x - points
        losses = 0.5 * rows.square().sum(1)
        x = (
            x
            - 0.2
            / (step + 4)
            * method.weights(DenseView(losses, rows, [], torch.Generator()))
            @ rows
        )
    assert float(losses[1] / losses[0]) == pytest.approx(3, rel=0.05)
