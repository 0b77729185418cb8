"""UW-SO: the softmax of the inverse losses."""

import math

import pytest
import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.uw_so import UWSO
from tests.models import assert_close, dense_view


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_weights_are_those_of_the_formula(temperature: float) -> None:
    view = dense_view()
    powers = [math.exp(1 / (temperature * loss)) for loss in view.losses.tolist()]
    expected = [power / sum(powers) for power in powers]
    assert UWSO(3, temperature=temperature).weights(view).tolist() == pytest.approx(expected)


def test_one_task_and_losses_of_zero() -> None:
    view = dense_view(1)
    assert_close(UWSO(1).aggregate(view).shared, view.jacobian()[0])
    losses = torch.tensor([0.0, 1.0, -1.0])
    w = UWSO(3).weights(DenseView(losses, torch.ones(3, 2), [], torch.Generator()))
    assert w.tolist() == pytest.approx([0.5, 0.0, 0.5])
