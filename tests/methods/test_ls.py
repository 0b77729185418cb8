"""LS: the sum of the losses."""

import torch

from mtlbench.methods.ls import LS
from mtlbench.methods.stl import STL
from tests.models import assert_close, dense_view


def test_the_update_is_the_sum_of_the_gradients() -> None:
    view = dense_view()
    for update in (LS(3).aggregate(view), STL(3).aggregate(view)):
        assert_close(update.shared, view.jacobian().sum(0))
        assert all(map(torch.equal, update.heads, view.head_grads()))
