"""UW: the uncertainties are learnt, each from its own loss."""

import pytest
import torch
from torch import Tensor

from mtlbench.interfaces import DenseView
from mtlbench.methods.uw import UW
from tests.models import make_stepper, mse, single_batch, tiny_model

LOSSES = torch.tensor([0.5, 1.0, 4.0])


def _view(losses: Tensor = LOSSES) -> DenseView:
    return DenseView(losses, torch.ones(len(losses), 2), [], torch.Generator())


def _unused() -> Tensor:
    raise AssertionError("UW needs no loss after the step")


def _steps(method: UW, n: int) -> None:
    for _ in range(n):
        method.weights(_view())
        method.after_step(_unused)


def test_all_weights_begin_at_one_half() -> None:
    assert torch.equal(UW(3).weights(_view()), torch.full((3,), 0.5))


def test_the_first_step_moves_each_uncertainty_towards_its_loss() -> None:
    method = UW(3, lr=0.01)
    _steps(method, 1)
    expected = 0.01 * torch.sign(LOSSES - 1)  # Adam's first step has the length of its rate
    assert torch.allclose(method.log_variance.detach(), expected, atol=1e-6)


def test_the_weights_settle_at_the_optimum_of_the_objective() -> None:
    method = UW(3, lr=0.05)
    _steps(method, 300)
    assert torch.allclose(method.weights(_view()), 0.5 / LOSSES, rtol=1e-2)


@pytest.mark.parametrize("sharpness", ["none", "fmtl"])
def test_networks_in_double_precision_train(sharpness: str) -> None:
    stepper = make_stepper(tiny_model(dtype=torch.float64), "uw", sharpness)
    assert not stepper.step(single_batch(), mse).skipped
