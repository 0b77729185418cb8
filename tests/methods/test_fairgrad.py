"""FairGrad: (G w)^alpha = 1 / w."""

import numpy as np
import pytest
import torch

from mtlbench.engine.gramian import Array
from mtlbench.methods.fairgrad import FairGrad
from tests.models import assert_close, dense_view
from tests.reference import fair_by_root

CASES = pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20)])
ALPHAS = pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])


def _gramian(K: int, P: int) -> Array:
    return dense_view(K, P, seed=K).gramian().numpy()


@CASES
@ALPHAS
def test_the_weights_meet_the_condition_and_are_cvxpys(K: int, P: int, alpha: float) -> None:
    G, ones = _gramian(K, P), np.ones(K)
    w = FairGrad(K, alpha=alpha).solve(G, ones)
    assert w.min() > 0
    assert np.allclose((G @ w) ** alpha * w, 1, rtol=1e-6)
    assert np.allclose(w, fair_by_root(G, alpha), rtol=1e-6)
    assert np.allclose(w, FairGrad(K, alpha=alpha, solver="cvxpy").solve(G, ones), rtol=1e-4)


@ALPHAS
def test_scaled_gradients_scale_the_weights_by_the_known_power(alpha: float) -> None:
    G = _gramian(3, 7)
    w, scaled = (FairGrad(3, alpha=alpha).solve(t * G, np.ones(3)) for t in (1.0, 1e-6))
    assert np.allclose(scaled, w * 1e-6 ** (-alpha / (1 + alpha)), rtol=1e-6)


def test_orthogonal_gradients_have_a_closed_form() -> None:
    squares = np.array([1.0, 4.0, 9.0])
    w = FairGrad(3, alpha=2.0).solve(np.diag(squares), np.ones(3))
    assert np.allclose(w, squares ** (-2 / 3))


def test_heads_have_their_own_gradients() -> None:
    view = dense_view()
    update = FairGrad(3).aggregate(view)
    assert all(map(torch.equal, update.heads, view.head_grads()))
    assert update.weights is not None
    assert_close(update.shared, update.weights @ view.jacobian())


def test_cancelling_and_zero_gradients_give_finite_weights() -> None:
    opposite = dense_view(2)
    opposite.jacobian()[1] = -opposite.jacobian()[0]
    nothing = dense_view(2)
    nothing.jacobian().zero_()
    for view in (opposite, nothing):
        method = FairGrad(2)
        assert torch.isfinite(method.weights(view)).all()
        assert method.diagnostics() == {"solver_fallbacks": 0}
