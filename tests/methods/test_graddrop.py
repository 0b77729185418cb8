"""GradDrop: one sign a coordinate."""

import pytest
import torch
from torch import Tensor

from mtlbench.interfaces import DenseView
from mtlbench.methods.graddrop import GradDrop
from tests.models import assert_close, dense_view


def _update(J: Tensor, leak: float = 0.0, seed: int = 0) -> Tensor:
    view = DenseView(torch.ones(len(J)), J, [], torch.Generator().manual_seed(seed))
    return GradDrop(len(J), leak=leak).aggregate(view).shared


def test_a_coordinate_keeps_the_gradients_of_one_sign() -> None:
    J = dense_view(4, 50).jacobian()
    positive, negative = J.clamp_min(0).sum(0), J.clamp_max(0).sum(0)
    d = _update(J)
    is_positive, is_negative = torch.isclose(d, positive), torch.isclose(d, negative)
    assert (is_positive | is_negative).all()
    assert (is_positive & ~is_negative).any()
    assert (is_negative & ~is_positive).any()


def test_the_chance_of_a_sign_is_its_purity() -> None:
    J = torch.tensor([[3.0], [-1.0]]).double().expand(2, 4000)
    share = (_update(J) > 0).double().mean()
    assert float(share) == pytest.approx(0.75, abs=0.03)


def test_agreement_and_zeros_are_left_alone() -> None:
    J = dense_view(3, 40).jacobian().abs()
    J[:, 20:] *= -1
    J[:, 10] = 0
    J[1, 11] = 0
    assert_close(_update(J), J.sum(0))


def test_a_leak_of_one_is_the_sum() -> None:
    J = dense_view(3, 40).jacobian()
    assert_close(_update(J, leak=1.0), J.sum(0))
    assert_close(_update(J, leak=0.25), 0.25 * J.sum(0) + 0.75 * _update(J))


def test_the_draw_comes_from_the_views_generator() -> None:
    J, state = dense_view(3, 40).jacobian(), torch.get_rng_state()
    assert torch.equal(_update(J), _update(J))
    assert not torch.equal(_update(J), _update(J, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_heads_have_their_own_gradients() -> None:
    view = dense_view()
    assert all(map(torch.equal, GradDrop(3).aggregate(view).heads, view.head_grads()))
