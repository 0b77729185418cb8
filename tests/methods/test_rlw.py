"""RLW: random weights on the simplex."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mtlbench.methods.rlw import RLW
from tests.models import assert_close, dense_view

BOTH = pytest.mark.parametrize("distribution", ["normal", "dirichlet"])


def _draws(distribution: Any, n: int, seed: int = 0) -> Tensor:
    view, method = dense_view(seed=seed), RLW(3, distribution=distribution)
    return torch.stack([method.weights(view) for _ in range(n)])


@BOTH
def test_weights_lie_on_the_simplex_and_no_task_is_preferred(distribution: Any) -> None:
    draws = _draws(distribution, 3000)
    assert draws.min() >= 0
    assert torch.allclose(draws.sum(1), torch.ones(3000).double())
    assert torch.allclose(draws.mean(0), torch.full((3,), 1 / 3).double(), atol=0.02)


def test_the_distributions_are_those_named() -> None:
    logs = _draws("normal", 3000).log()
    assert float((logs[:, 0] - logs[:, 1]).var()) == pytest.approx(2, rel=0.1)
    # A coordinate of Dirichlet(1, 1, 1) is Beta(1, 2), with variance 1 / 18.
    assert float(_draws("dirichlet", 3000)[:, 0].var()) == pytest.approx(1 / 18, rel=0.1)


@BOTH
def test_the_draw_comes_from_the_views_generator(distribution: Any) -> None:
    state = torch.get_rng_state()
    assert torch.equal(_draws(distribution, 2), _draws(distribution, 2))
    assert not torch.equal(_draws(distribution, 1), _draws(distribution, 1, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_task_is_plain_descent() -> None:
    view = dense_view(1)
    assert_close(RLW(1).aggregate(view).shared, view.jacobian()[0])
