"""UPGrad: the mean of the projected gradients."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from mtlbench.methods.upgrad import UPGrad
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (4, 3)])
def test_each_gradient_is_projected_onto_the_dual_cone(K: int, P: int) -> None:
    view = dense_view(K, P)
    J, projections = view.jacobian().numpy(), []
    for g in J:
        x = cp.Variable(P)
        cp.Problem(cp.Minimize(cp.sum_squares(x - g)), [J @ x >= 0]).solve(solver=cp.CLARABEL)
        projections.append(x.value)
    update = UPGrad(K).aggregate(view)
    error = update.shared.numpy() - np.mean(projections, axis=0)
    assert np.abs(error).max() <= 1e-6 * np.abs(J).max()
    assert np.allclose(UPGrad(K, solver="cvxpy").aggregate(view).shared, update.shared, atol=1e-5)
    assert all(map(torch.equal, update.heads, view.head_grads()))
    assert (J @ update.shared.numpy()).min() >= -1e-9


def test_agreement_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(UPGrad(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian().abs_()
    assert_close(UPGrad(3).aggregate(view).shared, view.jacobian().mean(0))
    for rows in ([1], [0, 1, 2]):
        view.jacobian()[rows] = 0
        assert torch.isfinite(UPGrad(3).weights(view)).all()
