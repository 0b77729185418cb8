"""SDMGrad: a regularised minimum norm."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from mtlbench.methods.mgda import MGDA
from mtlbench.methods.sdmgrad import SDMGrad
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (5, 3)])
@pytest.mark.parametrize("lam", [0.1, 0.3, 2.0])
def test_the_update_minimises_the_papers_objective(K: int, P: int, lam: float) -> None:
    view = dense_view(K, P)
    J, v = view.jacobian().numpy(), cp.Variable(K, nonneg=True)
    mean = J.mean(axis=0)
    objective = cp.Minimize(cp.sum_squares(J.T @ v + lam * mean) / 2)
    cp.Problem(objective, [cp.sum(v) == 1]).solve(solver=cp.CLARABEL)
    expected = (J.T @ v.value + lam * mean) / (1 + lam)
    update = SDMGrad(K, lam=lam).aggregate(view)
    assert np.abs(update.shared.numpy() - expected).max() <= 1e-5 * np.abs(J).max()
    assert update.weights is not None
    assert float(update.weights.sum()) == pytest.approx(1)
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_the_limits_are_mgda_and_the_mean() -> None:
    view = dense_view()
    assert_close(SDMGrad(3, lam=0).aggregate(view).shared, MGDA(3).aggregate(view).shared)
    assert_close(SDMGrad(3, lam=1e9).aggregate(view).shared, view.jacobian().mean(0), 1e-6)


def test_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(SDMGrad(1).aggregate(view).shared, view.jacobian()[0])
    for rows in ([1], [0, 1, 2]):
        view, method = dense_view(), SDMGrad(3)
        view.jacobian()[rows] = 0
        assert torch.isfinite(method.weights(view)).all()
        method.after_step(lambda: torch.ones(3))
        assert method.diagnostics() == {"solver_fallbacks": 0}
