"""DualProj: the projected mean gradient."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from mtlbench.methods.dualproj import DualProj
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(("K", "P", "seed"), [(2, 5, 0), (3, 7, 1), (4, 3, 2)])
def test_the_update_is_the_projection_of_the_mean(K: int, P: int, seed: int) -> None:
    view = dense_view(K, P, seed=seed)
    view.jacobian()[0] *= 10  # the mean conflicts with what it is least made of
    J, x = view.jacobian().numpy(), cp.Variable(P)
    objective = cp.Minimize(cp.sum_squares(x - J.mean(axis=0)))
    cp.Problem(objective, [J @ x >= 0]).solve(solver=cp.CLARABEL)
    update = DualProj(K).aggregate(view)
    assert np.abs(update.shared.numpy() - x.value).max() <= 1e-6 * np.abs(J).max()
    assert np.allclose(DualProj(K, solver="cvxpy").aggregate(view).shared, update.shared, atol=1e-5)
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_agreement_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(DualProj(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian().abs_()
    assert_close(DualProj(3).aggregate(view).shared, view.jacobian().mean(0))
    for rows in ([1], [0, 1, 2]):
        view.jacobian()[rows] = 0
        assert torch.isfinite(DualProj(3).weights(view)).all()
