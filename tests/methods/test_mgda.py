"""MGDA: the minimum-norm point."""

from typing import Any

import numpy as np
import pytest
import torch

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import DenseView
from mtlbench.methods.mgda import MGDA
from tests.models import assert_close, dense_view
from tests.reference import min_norm_by_enumeration

CASES = pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20), (5, 3)])


def _gramian(K: int, P: int) -> Array:
    return dense_view(K, P, seed=K).gramian().numpy()


@CASES
def test_the_point_is_that_of_cvxpy_and_of_every_face(K: int, P: int) -> None:
    G, ones = _gramian(K, P), np.ones(K)
    w = MGDA(K).solve(G, ones)
    for other in (MGDA(K, solver="cvxpy").solve(G, ones), min_norm_by_enumeration(G)):
        # With more tasks than dimensions the weights are not unique, the point is.
        assert (w - other) @ G @ (w - other) <= 1e-9 * np.trace(G)
    assert w.sum() == pytest.approx(1)
    assert w.min() >= 0


def test_two_tasks_have_a_closed_form() -> None:
    view = dense_view(2)
    a, b = view.jacobian()
    share = (b @ (b - a) / (a - b).norm().square()).clamp(0, 1)
    assert_close(MGDA(2).weights(view), torch.stack([share, 1 - share]))


def test_the_update_descends_on_every_task() -> None:
    view = dense_view(4, 9)
    update = MGDA(4).aggregate(view)
    assert (view.jacobian() @ update.shared >= update.shared.norm() ** 2 * (1 - 1e-6)).all()


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_normalisation_scales_the_gradients_for_the_solve_only(normalize: Any) -> None:
    view = dense_view()
    J, L = view.jacobian(), view.losses
    size = {"l2": J.norm(dim=1), "loss": L, "loss+": L * J.norm(dim=1)}[normalize]
    scaled = J / size[:, None]
    expected = torch.from_numpy(min_norm_by_enumeration((scaled @ scaled.T).numpy()))
    update = MGDA(3, normalize=normalize).aggregate(view)
    assert update.weights is not None
    assert_close(update.weights, expected, 1e-7)
    assert_close(update.shared, expected @ J, 1e-7)


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
def test_a_zero_row_is_the_minimum(normalize: Any) -> None:
    view = dense_view()
    view.jacobian()[1] = 0
    view.losses[1] = 0
    update = MGDA(3, normalize=normalize).aggregate(view)
    assert update.shared.norm() < 1e-9


def test_opposite_gradients_cancel() -> None:
    view = dense_view(2)
    view.jacobian()[1] = -2 * view.jacobian()[0]
    assert_close(MGDA(2).weights(view), torch.tensor([2 / 3, 1 / 3]).double(), 1e-6)


@pytest.mark.parametrize("normalize", ["l2", "loss+"])
def test_parallel_gradients_share_the_weight_whatever_their_last_bits(normalize: Any) -> None:
    """Scaled, they are one and the same: any weights were optimal, and the last bits chose."""
    g = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for seed in range(10):
        signs = torch.randint(-1, 2, (2, 9), generator=torch.Generator().manual_seed(seed))
        J = torch.stack([g, 10 * g]) * (1 + signs.double() * 2**-52)
        view = DenseView(torch.ones(2).double(), J, list(J), torch.Generator())
        assert_close(MGDA(2, normalize=normalize).aggregate(view).shared, 5.5 * g, 1e-2)
