"""SDMGrad: a regularised minimum norm."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from mtlbench import UsageError
from mtlbench.interfaces import Passes
from mtlbench.methods.mgda import MGDA
from mtlbench.methods.sdmgrad import SDMGrad
from mtlbench.registry import METHODS
from tests.models import (
    MakeBatch,
    assert_close,
    dense_view,
    make_stepper,
    multi_batch,
    passes_of_a_step,
    single_batch,
    tiny_model,
)
from tests.reference import Wrapper, assert_follows_reference
from tests.reference_methods import METHODS as REFERENCES
from tests.reference_methods import SDMGradOfThree


@pytest.mark.parametrize(("K", "P"), [(2, 5), (3, 7), (5, 3)])
@pytest.mark.parametrize("lam", [0.1, 0.3, 2.0])
def test_the_update_minimises_the_papers_objective(K: int, P: int, lam: float) -> None:
    view = dense_view(K, P)
    J, v = view.jacobian().numpy(), cp.Variable(K, nonneg=True)
    mean = J.mean(axis=0)
    objective = cp.Minimize(cp.sum_squares(J.T @ v + lam * mean) / 2)
    cp.Problem(objective, [cp.sum(v) == 1]).solve(solver=cp.CLARABEL)
    expected = (J.T @ v.value + lam * mean) / (1 + lam)
    update = SDMGrad(K, lam=lam).aggregate(view)
    assert np.abs(update.shared.numpy() - expected).max() <= 1e-5 * np.abs(J).max()
    assert update.weights is not None
    assert float(update.weights.sum()) == pytest.approx(1)
    assert all(map(torch.equal, update.heads, view.head_grads()))


def test_the_limits_are_mgda_and_the_mean() -> None:
    view = dense_view()
    assert_close(SDMGrad(3, lam=0).aggregate(view).shared, MGDA(3).aggregate(view).shared)
    assert_close(SDMGrad(3, lam=1e9).aggregate(view).shared, view.jacobian().mean(0), 1e-6)


def test_one_task_and_zero_rows() -> None:
    view = dense_view(1)
    assert_close(SDMGrad(1).aggregate(view).shared, view.jacobian()[0])
    for rows in ([1], [0, 1, 2]):
        view, method = dense_view(), SDMGrad(3)
        view.jacobian()[rows] = 0
        assert torch.isfinite(method.weights(view)).all()
        method.after_step(lambda: torch.ones(3))
        assert method.diagnostics() == {"solver_fallbacks": 0}


@pytest.mark.parametrize("sharpness", ["none", "sam"])
@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
def test_three_draws_follow_the_reference(
    make_batch: MakeBatch, sharpness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REFERENCES, "sdmgrad", SDMGradOfThree)
    batches = [make_batch(seed=seed) for seed in range(3)]
    assert_follows_reference(tiny_model(), batches, "sdmgrad", sharpness, Wrapper(sharpness))


@pytest.mark.parametrize("option", ["refresh=2", "at=representation", "solver=cvxpy"])
def test_three_draws_have_no_options_of_the_exact_solve(option: str) -> None:
    with pytest.raises(UsageError, match="draws=3 goes with no other solver, refresh or at"):
        METHODS.build(f"sdmgrad:draws=3,{option}", 3)


def test_three_draws_cost_what_they_declare() -> None:
    stepper = make_stepper(tiny_model(5), "sdmgrad:draws=3", "sam")
    declared = stepper.coming_passes
    assert passes_of_a_step(stepper, single_batch(5)) == (2 + 2, 10 + 1 + 1, 5)
    assert declared == Passes(4, 12, 5)
