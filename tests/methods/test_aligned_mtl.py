"""Aligned-MTL: all singular values become the smallest."""

import numpy as np
import pytest
import torch

from mtlbench.methods.aligned_mtl import AlignedMTL
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (6, 20), (5, 3)])
def test_the_update_is_that_of_a_singular_value_decomposition(K: int, P: int) -> None:
    view = dense_view(K, P)
    U, s, V = np.linalg.svd(view.jacobian().numpy(), full_matrices=False)
    aligned = torch.from_numpy(s[min(K, P) - 1] * U[:, : min(K, P)] @ V[: min(K, P)])
    update = AlignedMTL(K).aggregate(view)
    assert_close(update.shared, aligned.sum(0), 1e-7)
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_orthogonal_gradients_get_the_length_of_the_shortest() -> None:
    w = AlignedMTL(3).solve(np.diag([1.0, 4.0, 9.0]), np.ones(3))
    assert np.allclose(w, [1, 1 / 2, 1 / 3])


def test_one_task_copies_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(AlignedMTL(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[1:] = view.jacobian()[0]
    assert_close(AlignedMTL(3).aggregate(view).shared, view.jacobian().sum(0))
    view.jacobian()[1] = 0
    assert torch.isfinite(AlignedMTL(3).weights(view)).all()
    view.jacobian().zero_()
    assert_close(AlignedMTL(3).weights(view), torch.ones(3).double())
