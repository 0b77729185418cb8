"""EPO: the linear programme against cvxpy, and where it leads."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtlbench.interfaces import DenseView
from mtlbench.methods.epo import EPO

Array = NDArray[np.float64]


def _by_cvxpy(G: Array, losses: Array, r: Array, eps: float) -> float:
    """The best value of the programme, as the paper's algorithm has it."""
    K, weighted = len(losses), r * losses
    share = weighted / weighted.sum()
    mu = float(share @ np.log(K * share))
    pull = G @ (r * (np.log(K * share) - mu))
    w = cp.Variable(K, nonneg=True)
    held = [cp.sum(w) == 1]
    if mu > eps:
        for k in range(K):
            if weighted[k] == weighted.max() or (pull <= 0).all():
                held.append(G[k] @ w >= 0)
            elif pull[k] <= 0:
                held.append(G[k] @ w >= pull[k])
        objective = pull @ w
    else:
        held += [G @ w >= 0, pull @ w >= min(0.0, pull.max())]
        objective = cp.sum(G @ w)
    value = cp.Problem(cp.Maximize(objective), held).solve(solver=cp.CLARABEL)
    return float(value)


@pytest.mark.parametrize("K", [2, 5])
@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_the_programme_is_solved(K: int, spread: float) -> None:
    rng = np.random.default_rng(K)
    text = "/".join(["2", *["1"] * (K - 1)])
    r = np.array([2.0, *[1.0] * (K - 1)])
    r /= np.linalg.norm(r)
    for _ in range(5):
        J = rng.standard_normal((K, 6)) + 0.3
        losses, G = np.exp(spread * rng.standard_normal(K)) / r, J @ J.T
        w = EPO(K, preference=text).solve(G, losses)
        share = r * losses / (r * losses).sum()
        mu = float(share @ np.log(K * share))
        pull = G @ (r * (np.log(K * share) - mu))
        value = float(pull @ w if mu > 1e-4 else G.sum(axis=0) @ w)
        assert w.min() >= 0
        assert w.sum() == pytest.approx(1)
        best = _by_cvxpy(G, losses, r, 1e-4)
        assert value == pytest.approx(best, rel=1e-6, abs=1e-7 * np.abs(G).max())


@pytest.mark.parametrize(("text", "ratio"), [("uniform", 1.0), ("3/1", 3.0)])
def test_descent_ends_where_the_weighted_losses_are_equal(text: str, ratio: float) -> None:
    """Of quadratic losses about two points, on the line between these."""
    x, points = torch.tensor([0.1, 0.8]).double(), torch.eye(2).double()
    method = EPO(2, preference=text)
    for _ in range(150):
        rows = x - points
        losses = 0.5 * rows.square().sum(1)
        view = DenseView(losses, rows, [*rows], torch.Generator())
        x = x - 0.04 * method.aggregate(view).shared
    assert float(losses[1] / losses[0]) == pytest.approx(ratio, rel=0.1)
    assert float(x.sum()) == pytest.approx(1, abs=0.02)


def test_one_task_zero_rows_and_losses_of_zero() -> None:
    for losses in ([0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [-1.0, 1.0, 1.0]):
        for G in (np.zeros((3, 3)), np.diag([0.0, 1.0, 1e12])):
            assert EPO(3).solve(G, np.array(losses)).sum() == pytest.approx(1)
