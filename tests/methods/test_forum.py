"""FORUM: its small problem against a certified solver."""

import cvxpy as cp
import numpy as np
import pytest

from mtlbench.methods.forum import _solve


@pytest.mark.parametrize("K", [2, 3, 7])
@pytest.mark.parametrize("length", [0.01, 0.3, 2.0, 10.0])
@pytest.mark.parametrize("tilt", [-1.0, 0.0, 1.0])
def test_the_weights_are_optimal(K: int, length: float, tilt: float) -> None:
    """In nu and the weights together, whether the constraint on nu, or on the descent, binds."""
    rng = np.random.default_rng(K)
    q = rng.normal(size=6)
    q *= length / np.linalg.norm(q)
    F = rng.normal(size=(K, 6)) + tilt * q / length
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    size, rho = q @ q, 0.1
    pi = rho - F @ q / size

    def cost(w: np.ndarray) -> float:
        nu = max(0.0, pi @ w)
        return float(np.sum((F.T @ w + nu * q) ** 2) - rho * size * nu)

    x, v = cp.Variable(K, nonneg=True), cp.Variable(nonneg=True)
    objective = cp.sum_squares(F.T @ x + q * v) - rho * size * v
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(x) == 1, v >= pi @ x])
    problem.solve(solver=cp.CLARABEL)
    w = _solve(rho, F @ F.T, F @ q, np.array([size]))
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1)
    assert cost(w) <= problem.value + 1e-7
