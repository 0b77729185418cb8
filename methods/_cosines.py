"""The Gramian of the task gradients, split into their lengths and the angles between them."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from mtlbench.engine.gramian import Array

RANK_TOL: Final = float(np.finfo(np.float32).eps)
"""Eigenvalues below K times this, relative to the largest, are rounding error of float32."""

_ZERO_ROW: Final = (
    1e-30  # squared norm, relative to the largest row's, of a row that counts as zero
)


class SolveError(ArithmeticError):
    """The input is not a finite Gramian, or the solver did not reach its tolerance."""


def scaled(gramian: ArrayLike) -> tuple[Array, Array, float]:
    """Validate G and split it: cosines (0 for zero rows), row norms, and mean squared norm.

    ``G = scale * outer(norms, norms) * cosines``; the norms are relative to the scale.
    """
    g = np.asarray(gramian, dtype=np.float64)
    if g.ndim != 2 or g.shape[0] != g.shape[1] or not g.size:
        raise SolveError(f"a Gramian must have shape (K, K) with K >= 1, not {g.shape}")
    if not np.isfinite(g).all():
        raise SolveError("the Gramian has entries that are not finite")
    squares = np.diag(g)
    if (squares < 0).any():
        raise SolveError(f"a Gramian's diagonal is at least 0, not {squares.min()}")
    scale = float((squares / len(squares)).sum())  # the sum of the squares could overflow
    if scale == 0:
        return np.zeros_like(g), np.zeros(len(g)), 1.0
    norms = np.sqrt(squares / scale)
    norms[norms**2 <= _ZERO_ROW * norms.max() ** 2] = 0
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = g / scale
    cosines = (cosines + cosines.T) * (inverse / 2)[:, None]
    cosines *= inverse
    np.fill_diagonal(cosines, norms > 0)
    return cosines, norms, scale


def unit_factor(cosines: Array, ridge: float = 0.0) -> Array:
    """Rows F with ``F @ F.T`` equal to ``cosines``; eigenvalues that are rounding error become 0.
    The ridge is then added to all.

    An eigenvector factor, as a Cholesky factor needs a ridge where G is singular.
    """
    try:
        values, vectors = np.linalg.eigh(cosines)
    except np.linalg.LinAlgError as error:
        raise SolveError(str(error)) from error
    if values[0] < -1e-3 * values[-1]:
        raise SolveError(f"the Gramian is not positive semi-definite: eigenvalue {values[0]}")
    values[values < len(values) * np.finfo(np.float64).eps * values[-1]] = 0
    factor: Array = vectors * np.sqrt(values + ridge)
    factor[np.diag(cosines) == 0] = 0  # rounding error would be a direction of any length
    return factor
