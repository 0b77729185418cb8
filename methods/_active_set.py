"""Least squares over non-negative weights, by active sets; on cosines and norms of gradients."""

from collections.abc import Callable
from functools import cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv, dpotrf
from scipy.optimize import nnls

from mtlbench.engine.gramian import Array
from mtlbench.methods._cosines import SolveError, unit_factor

KKT_TOL: Final = 1e-8  # relative to the size of the terms that are summed
_STEADY: Final = 1e-4  # distance of a unit row from the span of those before it
_EXCHANGES: Final = 12  # three are usual; where rounding error decides there is no end


def nearest(cosines: Array, norms: Array, factor: Callable[[], Array]) -> Array:
    """Simplex weights of the point nearest to 0 in the hull of rows with these cosines and norms.

    ``factor()`` returns their unit vectors; it is asked for where block pivoting does not do.
    """
    smallest = norms.min()
    if smallest == 0:
        return share(norms == 0)
    pull = smallest / norms
    y = _exchange(cosines, pull) if _is_steady(cosines) else None
    if y is None:
        # With unit columns and a last row for "the weights sum to one", the least-squares solution
        # is the minimum-norm point up to a factor (Lawson and Hanson 1974, chapter 23.4).
        units = factor()
        y = _nnls(np.vstack([units.T, pull]), np.append(np.zeros(units.shape[1]), 1.0))
        cosines = units @ units.T
    y /= y.sum()
    w: Array = y / norms
    total, along = float(w.sum()), cosines @ y
    _certify(along - float(y @ along) / total / norms, 1.0)
    return w / total


def min_norm_point(points: Array) -> Array:
    """Simplex weights of the minimum-norm point of the hull of the rows of ``points``."""
    norms = np.linalg.norm(points, axis=1)
    if not norms.all():
        return share(norms == 0)
    units = points / norms[:, None]
    return nearest(units @ units.T, norms, lambda: units)


def lift(cosines: Array, rows: Array, ridge: float) -> Array:
    """For each row r, the ``v >= 0`` for which ``r + v`` combines the unit rows to the shortest.

    Args:
        cosines: (K, K).
        rows: (R, K), absolute values sum to one.
        ridge: times the squared length of ``r + v`` is added to that of the combination.
    """
    ridged = cosines * (1 + ridge * np.eye(len(cosines)))
    steady = _is_steady(ridged)
    factor = cache(partial(unit_factor, *([ridged] if steady else [cosines, ridge])))
    cosines = ridged if steady else factor() @ factor().T
    lifted = np.zeros_like(rows)
    pulls = -rows @ cosines
    for pull, row, v in zip(pulls, rows, lifted, strict=True):
        found = _exchange(cosines, pull) if steady else None
        v[:] = _nnls(factor().T, -factor().T @ row) if found is None else found
    # The errors are relative to what is projected, whatever is summed to its projection.
    sizes = np.sqrt(np.maximum(-(pulls * rows).sum(axis=1), ridge))
    slack = (lifted @ cosines - pulls) / sizes[:, None]
    _certify(np.where(lifted > 0, -np.abs(slack), slack), 1.0)
    return lifted


def share(chosen: NDArray[np.bool_]) -> Array:
    """Equal weights on the chosen rows, none on the others."""
    return chosen.astype(np.float64) / float(np.count_nonzero(chosen))


def _exchange(cosines: Array, pull: Array) -> Array | None:
    """``argmin_{x >= 0} x @ cosines @ x / 2 - pull @ x``, by principal block pivoting.

    From `"A comparison of block pivoting and interior-point algorithms for linear least squares
    problems with nonnegative variables" <https://doi.org/10.1090/S0025-5718-1994-1250776-4>`_: all
    entries of the wrong sign change sides at once, which takes one to five solves where an active
    set that grows by one entry at a time takes K. ``cosines`` must be steady. None if the exchanges
    do not come to an end.
    """
    free = pull > 0
    for _ in range(_EXCHANGES):
        x, inside = np.zeros_like(pull), np.flatnonzero(free)
        if inside.size:
            x[inside] = dposv(cosines.take(inside, 0).take(inside, 1), pull[inside])[1]
        wrong = np.where(free, x < 0, cosines @ x < pull)
        if not wrong.any():
            return x
        free ^= wrong
    return None


def _is_steady(cosines: Array) -> bool:
    """Whether solves with ``cosines`` and with its principal submatrices are exact to rounding."""
    factor, info = dpotrf(cosines)
    return not info and float(np.diag(factor).min()) >= _STEADY


def _nnls(matrix: Array, target: Array) -> Array:
    """``argmin_{x >= 0} |matrix @ x - target|``, by the active-set method of Lawson and Hanson."""
    try:
        x: Array = nnls(matrix, target, maxiter=30 * matrix.shape[1])[0]
    except RuntimeError as error:
        raise SolveError(str(error)) from error
    return x


def _certify(slack: Array, size: float) -> None:
    """Raise unless the slack of the optimality conditions is at least 0 up to rounding."""
    if not slack.min() >= -KKT_TOL * size:
        raise SolveError(f"not optimal: slack {slack.min():.3g} for terms of size {size:.3g}")
