"""ConFIG: one angle to all gradients."""

import pytest
import torch

from mtlbench.methods.config import ConFIG
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20), (5, 3)])
def test_the_update_is_that_of_the_pseudo_inverse(K: int, P: int) -> None:
    view = dense_view(K, P)
    J = view.jacobian()
    x = torch.linalg.pinv(J / J.norm(dim=1, keepdim=True)) @ torch.ones(K).double()
    unit = x / x.norm()
    update = ConFIG(K).aggregate(view)
    assert_close(update.shared, (J @ unit).sum() * unit, 1e-7)
    assert all(map(torch.equal, update.heads, view.head_grads()))
    if K <= P:
        cosines = torch.cosine_similarity(J, update.shared[None])
        assert_close(cosines, cosines.mean().expand(K), 1e-7)


def test_one_task_copies_zero_rows_and_opposite_rows() -> None:
    view = dense_view(1)
    assert_close(ConFIG(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[1:] = view.jacobian()[0]
    assert_close(ConFIG(3).aggregate(view).shared, view.jacobian().sum(0))
    view.jacobian()[1] = -view.jacobian()[0]
    view.jacobian()[2] = 0
    assert ConFIG(3).aggregate(view).shared.norm() < 1e-9
    view = dense_view()
    view.jacobian()[1] = 0
    w = ConFIG(3).weights(view)
    assert torch.isfinite(w).all()
    assert w[1] == 0
    view.jacobian().zero_()
    assert not ConFIG(3).weights(view).any()
