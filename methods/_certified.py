"""The problems of ``_solvers.py`` again, by an interior-point method: the tests' reference."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.methods._cosines import SolveError, unit_factor


def use_cvxpy(solver: str, default: str) -> bool:
    if solver not in (default, "cvxpy"):
        raise ValueError(f"solver must be {default!r} or 'cvxpy', not {solver!r}")
    return solver == "cvxpy"


def cvxpy_simplex(size: int, objective: Callable[[Any, Any], Any]) -> Array:
    w = _cvxpy_solve(size, lambda cp, w: (objective(cp, w), [cp.sum(w) == 1]))
    return w / float(w.sum())


def cvxpy_lift(cosines: Array, rows: Array, ridge: float) -> Array:
    factor, size = unit_factor(cosines, ridge).T, len(cosines)

    def solve(row: Array) -> Array:
        return _cvxpy_solve(size, lambda cp, v: (cp.sum_squares(factor @ (row + v)), []))

    return np.stack([solve(row) for row in rows])


def cvxpy_fair(cosines: Array, a: Array, p: float, start: Array) -> Array:
    factor = unit_factor(cosines)

    def build(cp: Any, u: Any) -> tuple[Any, list[Any]]:
        # In units of the start, every variable is of order one.
        y = cp.multiply(start, u)
        power = cp.log(y) if p == 1 else cp.power(y, 1 - p) / (1 - p)
        return cp.sum_squares(factor.T @ y) / 2 - a @ power, []

    y: Array = start * _cvxpy_solve(len(a), build)
    return y


def _cvxpy_solve(size: int, build: Callable[[Any, Any], tuple[Any, list[Any]]]) -> Array:
    """Minimise over x >= 0 the objective that ``build(cvxpy, x)`` returns with its constraints."""
    import cvxpy as cp  # a second to import, and needed only here

    x = cp.Variable(size)
    objective, constraints = build(cp, x)
    problem = cp.Problem(cp.Minimize(objective), [x >= 0, *constraints])
    # A singular Gramian can end the interior-point method just short of the tightest tolerance.
    for tol in (1e-12, 1e-10, 1e-8):
        with suppress(cp.error.SolverError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the status says so too
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
            if problem.status == cp.OPTIMAL and np.isfinite(x.value).all():
                return np.maximum(np.asarray(x.value, dtype=np.float64), 0)
    raise SolveError(f"cvxpy stopped with status {problem.status}")
