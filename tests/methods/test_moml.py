"""MOML: logits along a minimum-norm point."""

from dataclasses import replace

import torch

from mtlbench.methods.moml import MOML
from mtlbench.testing.families import Case, run_on
from mtlbench.testing.known import KnownProblem
from tests.models import assert_close

(CASE,) = run_on("ordinary", 2, steps=1)


def _looked(case: Case) -> MOML:
    method = MOML(2, lr=0.1)
    method.look(KnownProblem(case.view(), 1))
    return method


def test_two_tasks_that_agree_move_the_weights_and_two_that_do_not_leave_them() -> None:
    """The softmax of two logits moves along (1, -1) alone. Of gradients g and 2 g the longer one
    lowers both losses more."""
    case = CASE.permuted(torch.tensor([0, 0])).rescaled(torch.tensor([1.0, 2.0]))
    case = replace(case, heads=0 * case.heads)
    method = _looked(case)
    assert method._slope is not None
    assert_close(method._slope, torch.tensor([1.0, -1.0]) / 2**0.5, 1e-6)
    w = method.weights(case.view())
    assert_close(w, torch.tensor([-0.1, 0.1]).double().softmax(0), 1e-6)
    method.after_step(lambda: case.losses)
    assert_close(method.weights(case.view()), w, 1e-7)
    against = _looked(case.rescaled(torch.tensor([1.0, -1.0])))
    assert_close(against.weights(case.view()), torch.tensor([0.5, 0.5]).double(), 1e-6)


def test_gradients_that_vanish_teach_nothing() -> None:
    method, solved = MOML(2), CASE.rescaled(0.0)
    method.look(KnownProblem(solved.view(), 1))
    assert method.weights(solved.view()).tolist() == [0.5, 0.5]


def test_the_last_bits_of_gradients_that_cancel_do_not_move_the_weights() -> None:
    """What is left of the minimum-norm point is rounding error. Adam, whose first step is about as
    long for any gradient, would follow it."""
    g = CASE.jacobian[0].float()
    for seed in range(20):
        signs = torch.randint(-1, 2, (2, len(g)), generator=torch.Generator().manual_seed(seed))
        J = torch.stack([g, -g]) * (1 + torch.finfo(g.dtype).eps * signs)
        case = Case("", CASE.losses, J.double(), J[:, :3].double())
        method = MOML(2, lr=0.1)
        method.look(KnownProblem(case.view(dtype=torch.float32), 1))
        assert method.weights(case.view()).tolist() == [0.5, 0.5]
