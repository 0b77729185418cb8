"""MoDo: one projected step of the weights."""

import torch

from mtlbench.engine.restrict import restricted
from mtlbench.methods.modo import MoDo
from mtlbench.testing.families import run_on
from mtlbench.testing.known import KnownProblem
from tests.models import assert_close

(CASE,) = run_on("ordinary", 3, steps=1)


def test_without_a_look_the_last_weights_count() -> None:
    method = MoDo(3)
    method.look(KnownProblem(CASE.view(), 2))
    after = method.weights(CASE.view())
    assert float((after - 1 / 3).abs().max()) > 1e-3
    method.after_step(lambda: CASE.losses)
    assert_close(method.weights(CASE.view()), after)


def test_the_others_share_what_an_absent_task_leaves() -> None:
    method, few = MoDo(3), CASE.permuted(torch.tensor([0, 2]))
    method.simplex.copy_(torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64))
    with restricted(method, [0, 2]):
        assert_close(method.weights(few.view()), torch.tensor([0.25, 0.75]).double())
        method.look(KnownProblem(few.view(), 2))
        among = method.weights(few.view())
        method.after_step(lambda: few.losses)
    assert float(among.sum()) == 1
    assert_close(method.simplex[[0, 2]], 0.4 * among)
    assert float(method.simplex[1]) == 0.6


def test_an_absent_task_may_hold_all_the_weight() -> None:
    method, few = MoDo(3), CASE.permuted(torch.tensor([0, 2]))
    method.simplex.copy_(torch.tensor([0.0, 1.0, 0.0]))
    with restricted(method, [0, 2]):
        assert method.weights(few.view()).tolist() == [0.5, 0.5]
        method.look(KnownProblem(few.view(), 2))
        assert float(method.weights(few.view()).sum()) == 1
        method.after_step(lambda: few.losses)
    assert method.simplex.tolist() == [0, 1, 0]
