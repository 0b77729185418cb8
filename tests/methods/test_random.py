"""Random: random weights for the shared parameters, none for the heads."""

import random
import sys

import torch

from mtlbench.interfaces import Passes
from mtlbench.methods.random import Random
from tests.models import (
    assert_close,
    dense_view,
    make_stepper,
    passes_of_a_step,
    single_batch,
    tiny_model,
)


def test_the_update_is_a_random_point_of_the_hull_and_heads_have_their_own_gradients() -> None:
    view, method = dense_view(), Random(3)
    draws = []
    for _ in range(2):
        update = method.aggregate(view)
        assert update.weights is not None
        assert float(update.weights.min()) > 0
        assert_close(update.weights.sum(), torch.tensor(1.0).double())
        assert_close(update.shared, update.weights @ view.jacobian())
        assert all(map(torch.equal, update.heads, view.head_grads()))
        draws.append(update.weights)
    assert not torch.equal(*draws)


def test_the_draw_comes_from_the_views_generator() -> None:
    state = torch.get_rng_state()
    first, second = (Random(3).weights(dense_view()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_task_is_plain_descent_and_the_standard_library_is_not_shadowed() -> None:
    view = dense_view(1)
    assert_close(Random(1).aggregate(view).shared, view.jacobian()[0])
    assert sys.modules["random"] is random
    assert hasattr(random, "shuffle")


def test_a_step_goes_backward_through_the_trunk_once() -> None:
    """It went K times; each head still goes by itself, for its own gradient."""
    stepper = make_stepper(tiny_model(5), "random")
    assert passes_of_a_step(stepper, single_batch(5)) == (1, 1, 5)
    assert stepper.methods[0].info.passes(5) == Passes(1, 1, 5)
