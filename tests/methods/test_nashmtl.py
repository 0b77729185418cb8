"""Nash-MTL: G w = 1 / w, and an update of bounded length."""

import numpy as np
import pytest
import torch

from mtlbench.methods.nashmtl import NashMTL
from tests.models import assert_close, dense_view, make_stepper, mse, single_batch, tiny_model
from tests.reference import fair_by_root


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20)])
def test_the_weights_meet_the_condition_and_are_cvxpys(K: int, P: int) -> None:
    G, ones = dense_view(K, P).gramian().numpy(), np.ones(K)
    w = NashMTL(K).solve(G, ones)
    assert np.allclose(w, fair_by_root(G, 1.0), rtol=1e-6)
    assert np.allclose(w, NashMTL(K, solver="cvxpy").solve(G, ones), rtol=1e-4)


@pytest.mark.parametrize(("max_norm", "length"), [(0, 3**0.5), (1, 1), (1.5, 1.5), (2, 3**0.5)])
def test_the_shared_update_is_shortened_and_the_heads_are_not(
    max_norm: float, length: float
) -> None:
    view = dense_view()
    w = torch.from_numpy(fair_by_root(view.gramian().numpy(), 1.0))
    update = NashMTL(3, max_norm=max_norm).aggregate(view)
    assert update.weights is not None
    assert float(update.shared.norm()) == pytest.approx(length)
    assert_close(update.weights @ view.jacobian(), update.shared)
    assert_close(update.weights / update.weights.norm(), w / w.norm(), 1e-6)
    for k in range(3):
        assert_close(update.heads[k], w[k] * view.head_grads()[k], 1e-6)


def test_steps_between_refreshes_cost_one_backward() -> None:
    stepper = make_stepper(tiny_model(), "nashmtl:refresh=3")
    for expected in (3, 4, 5, 8):
        stepper.step(single_batch(), mse)
        assert stepper.passes.backward == expected


def test_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(NashMTL(1).aggregate(view).shared, view.jacobian()[0])
    for rows in ([1], [0, 1, 2]):
        view, method = dense_view(), NashMTL(3)
        view.jacobian()[rows] = 0
        assert torch.isfinite(method.weights(view)).all()
        assert torch.isfinite(method.aggregate(view).shared).all()
        assert method.diagnostics() == {"solver_fallbacks": 0}
