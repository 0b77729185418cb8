"""Trimmed mean: sorted lists without their ends."""

import pytest
import torch

from mtlbench.methods.trimmed_mean import TrimmedMean
from tests.models import assert_close, dense_view


@pytest.mark.parametrize(
    ("K", "trim", "left_out"), [(1, 1, 0), (2, 1, 0), (3, 1, 1), (6, 0, 0), (6, 2, 2), (6, 9, 2)]
)
def test_the_extremes_of_each_coordinate_are_left_out(K: int, trim: int, left_out: int) -> None:
    view = dense_view(K)
    columns = [sorted(column)[left_out : K - left_out] for column in view.jacobian().T.tolist()]
    expected = torch.tensor([sum(c) / len(c) for c in columns]).double()
    update = TrimmedMean(K, trim=trim).aggregate(view)
    assert_close(update.shared, expected, 1e-6)
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_one_wild_task_among_three_moves_nothing_far() -> None:
    view = dense_view()
    view.jacobian()[1] = 1e12
    assert_close(TrimmedMean(3).aggregate(view).shared, view.jacobian()[[0, 2]].max(0).values)
