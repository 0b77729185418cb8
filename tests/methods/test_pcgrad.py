"""PCGrad: the loops of the paper, for some orders."""

import itertools

import pytest
import torch
from torch import Tensor

from mtlbench.methods.pcgrad import PCGrad
from tests.models import assert_close, dense_view


def _projected(J: Tensor, i: int, order: tuple[int, ...]) -> Tensor:
    g = J[i].clone()
    for j in order:
        if g @ J[j] < 0:
            g -= (g @ J[j]) / (J[j] @ J[j]) * J[j]
    return g


def _possible(J: Tensor) -> list[Tensor]:
    """The updates for all combinations of orders."""
    K = len(J)
    others = [itertools.permutations([j for j in range(K) if j != i]) for i in range(K)]
    return [
        torch.stack([_projected(J, i, order) for i, order in enumerate(orders)]).sum(0)
        for orders in itertools.product(*others)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_update_is_one_of_those_of_the_papers_loops(seed: int) -> None:
    view = dense_view(3, 4, seed=seed)
    view.jacobian()[2] -= view.jacobian()[:2].sum(0)
    possible = _possible(view.jacobian())
    seen = set()
    for _ in range(30):
        update = PCGrad(3).aggregate(view)
        errors = [float((update.shared - other).norm()) for other in possible]
        assert min(errors) < 1e-9
        seen.add(errors.index(min(errors)))
    distinct = {tuple(round(x, 9) for x in other.tolist()) for other in possible}
    assert len(seen) >= min(len(distinct), 3)


def test_two_tasks_need_no_order_and_heads_have_their_own_gradients() -> None:
    view = dense_view(2)
    view.jacobian()[1] -= view.jacobian()[0]
    update = PCGrad(2).aggregate(view)
    assert_close(update.shared, _possible(view.jacobian())[0])
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_the_orders_come_from_the_views_generator() -> None:
    state = torch.get_rng_state()
    first, second = (PCGrad(6).weights(dense_view(6, 4, seed=1)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_agreement_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(PCGrad(1).aggregate(view).shared, view.jacobian()[0])
    view = dense_view()
    view.jacobian()[0] = 0
    assert torch.isfinite(PCGrad(3).weights(view)).all()
    view.jacobian().abs_()
    assert_close(PCGrad(3).weights(view), torch.ones(3).double())
