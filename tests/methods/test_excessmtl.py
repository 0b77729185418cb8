"""ExcessMTL: exponentiated steps along the estimated excess risks."""

import torch
from torch import Tensor

from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import DenseView
from mtlbench.methods.excessmtl import ExcessMTL
from tests.models import assert_close, dense_view, make_stepper, mse, same, single_batch, tiny_model


def _step(method: ExcessMTL, seed: int, tasks: list[int], factor: float = 1.0) -> Tensor:
    """The weights of a step in which these tasks have a label."""
    whole = dense_view(seed=seed)
    heads = [whole.head_grads()[k] for k in tasks]
    J = factor * whole.jacobian()[tasks]
    with restricted(method, tasks):
        view = DenseView(whole.losses[tasks], J, heads, whole.generator)
        weights = method.aggregate(view).weights
        method.after_step(lambda: torch.ones(3))
    assert weights is not None
    return weights


def test_the_first_step_is_that_of_equal_weights() -> None:
    assert_close(_step(ExcessMTL(3), 0, [0, 1, 2]), torch.ones(3).double() / 3)


def test_a_task_that_has_converged_loses_weight() -> None:
    method = ExcessMTL(2, lr=0.1)
    for step in range(20):
        J = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).double()
        J[0] *= 0.5**step
        view = DenseView(torch.ones(2).double(), J, [J[0], J[1]], torch.Generator())
        method.aggregate(view)
        method.after_step(lambda: torch.ones(2))
    shares = method.logits.softmax(0)
    assert shares[1] > shares[0] + 0.1


def test_the_others_keep_their_share_and_a_task_begins_when_it_does() -> None:
    method = ExcessMTL(3)
    _step(method, 0, [0, 1])
    assert method.first[2] == 0
    assert_close(method.logits.softmax(0), torch.ones(3).double() / 3)
    _step(method, 1, [0, 1, 2])
    assert_close(method.first[2], dense_view(seed=1).jacobian()[2].abs().sum())
    share = method.logits.softmax(0)
    assert_close(_step(method, 2, [1]), torch.ones(1).double())
    assert_close(method.logits.softmax(0), share)
    rows = [dense_view(seed=seed).jacobian()[1].square() for seed in range(3)]
    assert_close(method.squares[1], rows[0] + rows[1] + rows[2])


def test_a_resumed_stepper_goes_on_alike() -> None:
    first = make_stepper(tiny_model(), "excessmtl")
    first.step(single_batch(), mse)
    second = make_stepper(tiny_model(), "excessmtl")
    second.load_state_dict(first.state_dict())
    assert same(first.state_dict()["methods"], second.state_dict()["methods"])


def test_zero_rows() -> None:
    method = ExcessMTL(3)
    for factor in (0.0, 1.0, 0.0):
        assert torch.isfinite(_step(method, 0, [0, 1, 2], factor)).all()
