"""Exact, fast solvers on the Gramian of the task gradients, used by the weighting methods.

Every function takes the Gramian :math:`G = J J^\\top` of shape ``(K, K)`` and returns weights of
shape ``(K,)``, all numpy float64. The default solver is exact and quick; ``solver="cvxpy"`` hands
the same problem to an interior-point method and serves as the certified reference of the tests.

Rows are scaled to unit norm before anything is solved, so a task whose gradient is a million times
smaller than the others is resolved as well as they are, and the scale of the whole Gramian cannot
change the simplex weights.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dposv, dpotrf
from scipy.optimize import nnls

from mtlbench.engine.gramian import DOUBLE, Array

FAIR_RIDGE: Final = 1e-6
"""Squared distance to 0 of the hull of the unit gradients below which :func:`fair` adds a ridge."""

RANK_TOL: Final = float(np.finfo(np.float32).eps)
"""Eigenvalues below K times this, relative to the largest, are rounding error of float32."""

_ZERO_ROW: Final = (
    1e-30  # squared norm, relative to the largest row's, of a row that counts as zero
)
_KKT_TOL: Final = 1e-8  # relative to the size of the terms that are summed
_STEADY: Final = 1e-4  # distance of a unit row from the span of those before it
_EXCHANGES: Final = 12  # three are usual; where rounding error decides there is no end


class SolveError(ArithmeticError):
    """The input is not a finite Gramian, or the solver did not reach its tolerance."""


def min_norm(gramian: ArrayLike, solver: Literal["nnls", "cvxpy"] = "nnls") -> Array:
    r"""Weights of the minimum-norm point of the convex hull of the gradients.

    The subproblem of MGDA, from `"Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization" <https://doi.org/10.1016/j.crma.2012.03.014>`_, solved by an active-set method,
    not by Frank-Wolfe.

    .. math:: w = \arg\min_{w \in \Delta^{K-1}} w^\top G w

    A zero row is itself the minimum-norm point: the zero rows then share the weight equally.
    Where the optimal weights are not unique (duplicate rows, K > P), :math:`J^\top w` still is.

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.
        solver: ``"nnls"`` or ``"cvxpy"``.

    Returns:
        ``(K,)``, non-negative, sums to one.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian, or the solver fails.
    """
    cosines, norms, _ = _scaled(gramian)
    if _use_cvxpy(solver, "nnls"):
        points = norms[:, None] * _unit_factor(cosines)
        return _cvxpy_simplex(len(norms), lambda cp, w: cp.sum_squares(points.T @ w))
    return _nearest(cosines, norms, partial(_unit_factor, cosines))


def cagrad_dual(gramian: ArrayLike, c: float, solver: Literal["nnls", "cvxpy"] = "nnls") -> Array:
    r"""Weights that solve the dual of CAGrad.

    From `"Conflict-Averse Gradient Descent for Multi-task Learning"
    <https://arxiv.org/abs/2110.14048>`_, with :math:`g_0 = J^\top \mathbf 1 / K` and
    :math:`g_w = J^\top w`:

    .. math:: w = \arg\min_{w \in \Delta^{K-1}} g_w^\top g_0 + c \lVert g_0 \rVert \lVert g_w \rVert

    As :math:`\lVert g_w \rVert = \min_{s > 0} (\lVert g_w \rVert^2 / s + s) / 2`, the solution is
    the minimum-norm point of the hull shifted by :math:`s g_0 / (c \lVert g_0 \rVert)`, at the one
    s that equals :math:`\lVert g_w \rVert`. That s is a root of a piecewise smooth function of one
    variable; Newton's method inside a bracket finds it. Departs from the authors' code, which runs
    SLSQP with finite differences on an objective smoothed by 1e-8: here there is no smoothing.

    Two limits need a rule. At ``c = 0`` the problem is linear and the rows with the smallest
    :math:`g_k^\top g_0` share the weight. Where :math:`g_0 = 0` (to 1e-8 of the largest row, all
    that a float64 Gramian resolves) every point is optimal and the weights are uniform.

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.
        c: radius of the ball around the mean gradient, in units of its norm; at least 0.
        solver: ``"nnls"`` or ``"cvxpy"``.

    Returns:
        ``(K,)``, non-negative, sums to one.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian, or the solver fails.
    """
    if not 0 <= c < np.inf:
        raise ValueError(f"c must be finite and at least 0, not {c}")
    cosines, norms, _ = _scaled(gramian)
    points = norms[:, None] * _unit_factor(cosines)
    mean = points.mean(axis=0)
    radius = float(np.linalg.norm(mean))
    if radius <= 1e-8 * norms.max():
        return np.full(len(norms), 1 / len(norms))
    inner = points @ mean / radius
    if _use_cvxpy(solver, "nnls"):
        return _cvxpy_simplex(len(norms), lambda cp, w: inner @ w + c * cp.norm(points.T @ w))
    if c == 0:
        return _share(inner <= inner.min() + 1e-15 * norms.max())

    shift = mean / (radius * c)
    low, high, s = -1.0, 2 * float(norms.max()), radius  # so that both ends are tried, if needed
    settled = False  # then one step more: the longest rows see the last digits of s
    for _ in range(100):
        w = _min_norm_point(points + s * shift)
        x = points.T @ w
        norm = float(np.sqrt(x @ x))
        # g_w = 0 at one s means that -g_0 lies in the hull's normal cone at 0: optimal at every s.
        rounding = 1e-14 * (w @ norms)
        error = abs(norm - s)
        if settled or error <= 1e-13 * s + rounding or norm <= 100 * rounding:
            return w
        settled = error <= 1e-10 * s
        low, high = (s, high) if norm > s else (low, s)
        # On the face that holds w, g_w moves along the projection of -shift onto the face.
        face = points[w > 0]
        axes = np.linalg.qr((face[1:] - face[0]).T)[0]
        slope = -float((x @ axes) @ (shift @ axes)) / norm - 1
        s = max(s - (norm - s) / slope, 0.0) if slope < 0 else low
        if not low < s < high:
            if settled:
                return w
            s = (max(low, 0.0) + high) / 2
    raise SolveError(f"CAGrad's dual did not converge: s in [{low}, {high}] after 100 steps")


def fair(gramian: ArrayLike, alpha: float, solver: Literal["newton", "cvxpy"] = "newton") -> Array:
    r"""Positive weights that solve FairGrad's condition; ``alpha = 1`` is Nash-MTL's.

    From `"Fair Resource Allocation in Multi-Task Learning" <https://arxiv.org/abs/2402.15638>`_
    and `"Multi-Task Learning as a Bargaining Game" <https://arxiv.org/abs/2202.01017>`_.

    .. math:: (G w)^\alpha = 1 / w \quad\Longleftrightarrow\quad w = \arg\min_{w > 0} \tfrac12
              w^\top G w - \sum_k \frac{w_k^{1 - 1/\alpha}}{1 - 1/\alpha}

    (a sum of logarithms at ``alpha = 1``), a strictly convex problem solved by damped Newton.
    Departs from the authors' code, which runs least squares with finite differences (FairGrad) or
    20 steps of a linearised problem (Nash-MTL).

    No solution exists where the gradients cancel, :math:`J^\top w = 0` for some :math:`w \ge 0`,
    so two rules complete the definition, neither of which sees the scale of the rows:

    - A zero row takes no part in :math:`J^\top w`. It is given the mean squared norm of the other
      rows and no inner product with them, hence a weight of the others' order.
    - With q the smallest :math:`\lVert \hat J^\top w \rVert^2` over the simplex (rows of
      :math:`\hat J` of unit norm), the diagonal of G is multiplied by
      ``1 + max(0, FAIR_RIDGE - q)``. This ridge is zero unless the gradients nearly cancel, and
      moves steadily with G. Below its 1e-6, float64 could not certify the condition, and a float32
      Gramian would be rounding error.

    If all rows are zero the weights are one. The condition holds to a relative 1e-8, or to the
    rounding error of G w where that is larger (conflicting rows of very different norms).

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.
        alpha: fairness, positive. A scaling of G by t scales w by t to the -alpha / (1 + alpha).
        solver: ``"newton"`` or ``"cvxpy"``.

    Returns:
        ``(K,)``, positive.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian, or the solver fails.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be finite and positive, not {alpha}")
    p = 1 / alpha
    cosines, norms, scale = _scaled(gramian)
    zero = norms == 0
    if zero.all():
        return np.ones(len(norms))
    norms[zero] = np.sqrt(np.mean(norms[~zero] ** 2))
    np.fill_diagonal(cosines, 1)
    a = norms ** (p - 1)

    solve = _cvxpy_fair if _use_cvxpy(solver, "newton") else _newton_fair
    try:
        y = solve(cosines, a, p)
        x = cosines @ y
        # (min x)^2 / y'x is a lower bound of q: most calls end here, without solving for q.
        steady = x.min() > 0 and x.min() ** 2 >= FAIR_RIDGE * (y @ x)
    except SolveError:
        steady = False
    if not steady:
        units = _unit_factor(cosines)[~zero]
        q = float(np.sum((units.T @ _min_norm_point(units)) ** 2))
        np.fill_diagonal(cosines, 1 + max(0.0, FAIR_RIDGE - q))
        y = solve(cosines, a, p)
    w: Array = y / norms * scale ** (-1 / (1 + p))
    return w


def project_dual_cone(
    gramian: ArrayLike,
    reference: ArrayLike,
    solver: Literal["nnls", "cvxpy"] = "nnls",
    resolution: float = DOUBLE,
) -> Array:
    r"""Weights of the projection of :math:`J^\top r` onto the dual cone of the gradients.

    The subproblem of UPGrad and DualProj, from `"Jacobian Descent for Multi-Objective
    Optimization" <https://arxiv.org/abs/2406.16232>`_: the nearest point to :math:`J^\top r` in
    :math:`\{x : J x \ge 0\}` is :math:`J^\top w` with, by duality,

    .. math:: w = r + v, \quad v = \arg\min_{v \ge 0} \lVert J^\top (r + v) \rVert^2

    Where gradients cancel, v is not unique, the cone has no interior, and a gradient that is off
    by a rounding error has another projection, by way of weights without bound. Hence a ridge as
    large as the error of G: of all v that do as well, one of the shortest is found, and a loss may
    grow by the root of the ridge at most (1e-7 of the lengths for gradients in double, 1e-3 in
    single precision; weights of order 1 let it grow by the ridge itself).

    Departs from the authors' code, which adds a ridge of 1e-4 and calls a general QP solver: here
    v is found by an active-set method. The entry of a zero row stays as it was.

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.
        reference: ``(K,)``, the weights r of the vector that is projected, or ``(R, K)``: those of
            several, each projected by itself.
        solver: ``"nnls"`` or ``"cvxpy"``.
        resolution: rounding error of the gradients' inner products, relative to their lengths.

    Returns:
        Of the shape of ``reference``, and at least ``reference``.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian, ``reference`` does not match it, or the
            solver fails.
    """
    cosines, norms, _ = _scaled(gramian)
    r = np.asarray(reference, dtype=np.float64)
    if r.ndim not in (1, 2) or r.shape[-1] != len(norms) or not np.isfinite(r).all():
        raise SolveError(f"the reference must be {norms.shape} finite weights, not {r}")
    rows = np.atleast_2d(r) * norms
    sizes = np.abs(rows).sum(axis=1, keepdims=True)
    rows = np.divide(rows, sizes, out=np.zeros_like(rows), where=sizes > 0)
    lift = _cvxpy_lift if _use_cvxpy(solver, "nnls") else _lift
    v = sizes * lift(cosines, rows, 2 * len(norms) * resolution)
    w: Array = r + np.divide(v, norms, out=np.zeros_like(v), where=norms > 0).reshape(r.shape)
    return w


def equiangular(gramian: ArrayLike) -> tuple[Array, Array, Array]:
    r"""The combination of the unit gradients that has the same projection on each of them.

    With the unit gradients as the rows of U and cosines :math:`C = U U^\top`, it is :math:`x =
    U^\top y` with :math:`y = C^{+} \mathbf 1`, where eigenvalues of C that are rounding error of
    float32 count as zero. Where the unit gradients cancel there is none, and y is 0 or has other
    projections.

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.

    Returns:
        y, ``(K,)``; C, ``(K, K)``; and the norms of the gradients up to a common factor, ``(K,)``.
        All have zeros for rows that are zero.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian.
    """
    cosines, norms, _ = _scaled(gramian)
    inverse = np.linalg.pinv(cosines, rcond=len(norms) * RANK_TOL, hermitian=True)
    return inverse.sum(axis=1), cosines, norms


def _scaled(gramian: ArrayLike) -> tuple[Array, Array, float]:
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


def _unit_factor(cosines: Array, ridge: float = 0.0) -> Array:
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


def _nnls(matrix: Array, target: Array) -> Array:
    """``argmin_{x >= 0} |matrix @ x - target|``, by the active-set method of Lawson and Hanson."""
    try:
        x: Array = nnls(matrix, target, maxiter=30 * matrix.shape[1])[0]
    except RuntimeError as error:
        raise SolveError(str(error)) from error
    return x


def _certify(slack: Array, size: float) -> None:
    """Raise unless the slack of the optimality conditions is at least 0 up to rounding."""
    if not slack.min() >= -_KKT_TOL * size:
        raise SolveError(f"not optimal: slack {slack.min():.3g} for terms of size {size:.3g}")


def _is_steady(cosines: Array) -> bool:
    """Whether solves with ``cosines`` and with its principal submatrices are exact to rounding."""
    factor, info = dpotrf(cosines)
    return not info and float(np.diag(factor).min()) >= _STEADY


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


def _nearest(cosines: Array, norms: Array, factor: Callable[[], Array]) -> Array:
    """Simplex weights of the point nearest to 0 in the hull of rows with these cosines and norms.

    ``factor()`` returns their unit vectors; it is asked for where block pivoting does not do.
    """
    smallest = norms.min()
    if smallest == 0:
        return _share(norms == 0)
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


def _min_norm_point(points: Array) -> Array:
    """Simplex weights of the minimum-norm point of the hull of the rows of ``points``."""
    norms = np.linalg.norm(points, axis=1)
    if not norms.all():
        return _share(norms == 0)
    units = points / norms[:, None]
    return _nearest(units @ units.T, norms, lambda: units)


def _lift(cosines: Array, rows: Array, ridge: float) -> Array:
    """For each row r, the ``v >= 0`` for which ``r + v`` combines the unit rows to the shortest.

    Args:
        cosines: (K, K).
        rows: (R, K), absolute values sum to one.
        ridge: times the squared length of ``r + v`` is added to that of the combination.
    """
    ridged = cosines * (1 + ridge * np.eye(len(cosines)))
    steady = _is_steady(ridged)
    factor = cache(partial(_unit_factor, *([ridged] if steady else [cosines, ridge])))
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


def _fair_start(cosines: Array, a: Array, p: float) -> Array:
    """The solution for orthogonal rows, times the factor that minimises the objective along it."""
    start = a ** (1 / (1 + p))
    size = max(float(start @ cosines @ start), FAIR_RIDGE * float(start @ start))
    y: Array = start * (float(a @ start ** (1 - p)) / size) ** (1 / (1 + p))
    return y


def _newton_fair(cosines: Array, a: Array, p: float) -> Array:
    """Solve ``cosines @ y = a y^-p`` for y > 0, by Newton on the convex function it minimises."""
    y = _fair_start(cosines, a, p)
    last, sizes = np.inf, np.abs(cosines) * (len(a) * np.finfo(np.float64).eps)
    pull = a * y**-p
    gradient = cosines @ y - pull
    for _ in range(200):
        residual, rounding = float(np.abs(gradient / pull).max()), sizes @ y
        if residual <= 1e-10:
            return y
        if residual > last / 2 and (np.abs(gradient) <= _KKT_TOL * pull + rounding).all():
            return y
        last = residual
        _, step, info = dposv(cosines + np.diag(p * pull / y), -gradient)
        if info:
            raise SolveError(f"the Hessian of FairGrad's objective is not positive: info {info}")
        t = 0.99 / max(0.99, float((-step / y).max()))
        # The search reads the slope along the step, not the value: near the solution the value
        # changes by less than its rounding error long before the slope does.
        limit = -0.25 * (gradient @ step) + rounding @ np.abs(step)
        for _ in range(30):
            ahead = y + t * step
            pull = a * ahead**-p
            slope = cosines @ ahead - pull
            if slope @ step <= limit:
                break
            t /= 2
        y, gradient = ahead, slope
    raise SolveError(f"FairGrad's Newton did not converge: residual {residual:.3g}")


def _share(chosen: NDArray[np.bool_]) -> Array:
    """Equal weights on the chosen rows, none on the others."""
    return chosen.astype(np.float64) / float(np.count_nonzero(chosen))


def _use_cvxpy(solver: str, default: str) -> bool:
    if solver not in (default, "cvxpy"):
        raise ValueError(f"solver must be {default!r} or 'cvxpy', not {solver!r}")
    return solver == "cvxpy"


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


def _cvxpy_simplex(size: int, objective: Callable[[Any, Any], Any]) -> Array:
    w = _cvxpy_solve(size, lambda cp, w: (objective(cp, w), [cp.sum(w) == 1]))
    return w / float(w.sum())


def _cvxpy_lift(cosines: Array, rows: Array, ridge: float) -> Array:
    factor, size = _unit_factor(cosines, ridge).T, len(cosines)

    def solve(row: Array) -> Array:
        return _cvxpy_solve(size, lambda cp, v: (cp.sum_squares(factor @ (row + v)), []))

    return np.stack([solve(row) for row in rows])


def _cvxpy_fair(cosines: Array, a: Array, p: float) -> Array:
    factor, start = _unit_factor(cosines), _fair_start(cosines, a, p)

    def build(cp: Any, u: Any) -> tuple[Any, list[Any]]:
        # In units of the start, every variable is of order one.
        y = cp.multiply(start, u)
        power = cp.log(y) if p == 1 else cp.power(y, 1 - p) / (1 - p)
        return cp.sum_squares(factor.T @ y) / 2 - a @ power, []

    y: Array = start * _cvxpy_solve(len(a), build)
    return y
