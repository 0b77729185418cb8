"""Auto-Lambda: weights from one step ahead."""

import pytest
import torch
from torch import Tensor

from mtlbench import InputGroup, UsageError
from mtlbench.methods.autolambda import AutoLambda
from mtlbench.testing.families import Case, run_on
from mtlbench.testing.known import RATE, KnownProblem
from tests.models import assert_close, make_stepper, mse, names, single_batch, tiny_model

(CASE,) = run_on("ordinary", 3, steps=1)


def _products(case: Case, primary: list[int]) -> Tensor:
    """Of each gradient, trunk and heads, with the sum of those of the primary tasks."""
    heads = torch.block_diag(*(head[None] for head in case.heads))
    rows = torch.cat([case.jacobian, heads], 1)
    return rows @ rows[primary].sum(0)


def _looked(method: AutoLambda) -> AutoLambda:
    method.look(KnownProblem(CASE.view(), 1))
    return method


@pytest.mark.parametrize("primary", [[0, 1, 2], [1], [0, 2]])
def test_the_first_step_is_adams_along_the_derivative(primary: list[int]) -> None:
    """Where gradients are the same everywhere the derivative is exact: -lr g_k^T d."""
    problem = KnownProblem(CASE.view(), 1)
    listed = "/".join(problem.objectives[k] for k in primary) if len(primary) < 3 else ""
    method = AutoLambda(3, primary=listed, lr=0.01)
    method.look(problem)
    assert method._slope is not None
    expected = -RATE * _products(CASE, primary)
    assert_close(method._slope.double(), expected, 1e-6)
    weights = method.weights(CASE.view())
    assert_close(weights, 0.1 - 0.01 * expected.sign(), 1e-6)
    method.after_step(lambda: CASE.losses)
    assert_close(method.values.detach().double(), weights, 1e-6)


def test_libmtls_variant_is_a_softmax() -> None:
    method = _looked(AutoLambda(3, variant="libmtl"))
    logits = torch.zeros(3).double().requires_grad_()
    (-RATE * logits.softmax(0) @ _products(CASE, [0, 1, 2])).backward()
    assert logits.grad is not None
    assert method._slope is not None
    assert_close(method._slope.double(), logits.grad, 1e-6)
    adam = torch.optim.Adam([logits], lr=1e-3)
    adam.step()
    assert_close(method.weights(CASE.view()), logits.detach().softmax(0), 1e-6)


def test_a_primary_task_must_exist() -> None:
    stepper = make_stepper(tiny_model(), f"autolambda:primary={names(3)[0]}/left")
    with pytest.raises(UsageError, match="autolambda:primary: no task is called 'left'; task1, "):
        stepper.step(single_batch(), mse)


def test_without_a_primary_task_in_the_step_the_weights_stay() -> None:
    stepper = make_stepper(tiny_model(), f"autolambda:primary={names(3)[0]}")
    (group,) = single_batch()
    others = {name: target for name, target in group.targets.items() if name != names(3)[0]}
    report = stepper.step([InputGroup(group.inputs, others)], mse)
    assert report.weights is not None
    assert report.weights.tolist() == pytest.approx([0, 0.1, 0.1])
