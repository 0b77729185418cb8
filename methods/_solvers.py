"""Exact, fast solvers on the Gramian of the task gradients, used by the weighting methods.

Every function takes the Gramian :math:`G = J J^\\top` of shape ``(K, K)`` and returns weights of
shape ``(K,)``, all numpy float64. The default solver is exact and quick; ``solver="cvxpy"`` hands
the same problem to an interior-point method and serves as the certified reference of the tests.

Rows are scaled to unit norm before anything is solved, so a task whose gradient is a million times
smaller than the others is resolved as well as they are, and the scale of the whole Gramian cannot
change the simplex weights.
"""

from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg.lapack import dposv

from mtlbench.engine.gramian import DOUBLE, Array
from mtlbench.methods._active_set import KKT_TOL, lift, min_norm_point, nearest, share
from mtlbench.methods._certified import cvxpy_fair, cvxpy_lift, cvxpy_simplex, use_cvxpy
from mtlbench.methods._cosines import RANK_TOL, SolveError, scaled, unit_factor

FAIR_RIDGE: Final = 1e-6
"""Squared distance to 0 of the hull of the unit gradients below which :func:`fair` adds a ridge."""


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
    cosines, norms, _ = scaled(gramian)
    if use_cvxpy(solver, "nnls"):
        points = norms[:, None] * unit_factor(cosines)
        return cvxpy_simplex(len(norms), lambda cp, w: cp.sum_squares(points.T @ w))
    return nearest(cosines, norms, partial(unit_factor, cosines))


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
    cosines, norms, _ = scaled(gramian)
    points = norms[:, None] * unit_factor(cosines)
    mean = points.mean(axis=0)
    radius = float(np.linalg.norm(mean))
    if radius <= 1e-8 * norms.max():
        return np.full(len(norms), 1 / len(norms))
    inner = points @ mean / radius
    if use_cvxpy(solver, "nnls"):
        return cvxpy_simplex(len(norms), lambda cp, w: inner @ w + c * cp.norm(points.T @ w))
    if c == 0:
        return share(inner <= inner.min() + 1e-15 * norms.max())

    shift = mean / (radius * c)
    low, high, s = -1.0, 2 * float(norms.max()), radius  # so that both ends are tried, if needed
    settled = False  # then one step more: the longest rows see the last digits of s
    for _ in range(100):
        w = min_norm_point(points + s * shift)
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
    cosines, norms, scale = scaled(gramian)
    zero = norms == 0
    if zero.all():
        return np.ones(len(norms))
    norms[zero] = np.sqrt(np.mean(norms[~zero] ** 2))
    np.fill_diagonal(cosines, 1)
    a = norms ** (p - 1)

    backend = cvxpy_fair if use_cvxpy(solver, "newton") else _newton_fair

    def solve() -> Array:
        return backend(cosines, a, p, _fair_start(cosines, a, p))

    try:
        y = solve()
        x = cosines @ y
        # (min x)^2 / y'x is a lower bound of q: most calls end here, without solving for q.
        steady = x.min() > 0 and x.min() ** 2 >= FAIR_RIDGE * (y @ x)
    except SolveError:
        steady = False
    if not steady:
        units = unit_factor(cosines)[~zero]
        q = float(np.sum((units.T @ min_norm_point(units)) ** 2))
        np.fill_diagonal(cosines, 1 + max(0.0, FAIR_RIDGE - q))
        y = solve()
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
    cosines, norms, _ = scaled(gramian)
    r = np.asarray(reference, dtype=np.float64)
    if r.ndim not in (1, 2) or r.shape[-1] != len(norms) or not np.isfinite(r).all():
        raise SolveError(f"the reference must be {norms.shape} finite weights, not {r}")
    rows = np.atleast_2d(r) * norms
    sizes = np.abs(rows).sum(axis=1, keepdims=True)
    rows = np.divide(rows, sizes, out=np.zeros_like(rows), where=sizes > 0)
    project = cvxpy_lift if use_cvxpy(solver, "nnls") else lift
    v = sizes * project(cosines, rows, 2 * len(norms) * resolution)
    w: Array = r + np.divide(v, norms, out=np.zeros_like(v), where=norms > 0).reshape(r.shape)
    return w


def equiangular(gramian: ArrayLike, projections: Array | float = 1.0) -> tuple[Array, Array, Array]:
    r"""The combination of the unit gradients that has given projections on them, by default the
    same on each.

    With the unit gradients as the rows of U and cosines :math:`C = U U^\top`, it is :math:`x =
    U^\top y` with :math:`y = C^{+} p`, where eigenvalues of C that are rounding error of float32
    count as zero. Where the unit gradients cancel there is none, and y is 0 or has other
    projections.

    Args:
        gramian: ``(K, K)``, inner products of the task gradients.
        projections: p, ``(K,)``, or one number for all.

    Returns:
        y, ``(K,)``; C, ``(K, K)``; and the norms of the gradients up to a common factor, ``(K,)``.
        All have zeros for rows that are zero.

    Raises:
        SolveError: if ``gramian`` is not a finite Gramian.
    """
    cosines, norms, _ = scaled(gramian)
    inverse = np.linalg.pinv(cosines, rcond=len(norms) * RANK_TOL, hermitian=True)
    return (inverse * projections).sum(axis=1), cosines, norms


def _fair_start(cosines: Array, a: Array, p: float) -> Array:
    """The solution for orthogonal rows, times the factor that minimises the objective along it."""
    start = a ** (1 / (1 + p))
    size = max(float(start @ cosines @ start), FAIR_RIDGE * float(start @ start))
    y: Array = start * (float(a @ start ** (1 - p)) / size) ** (1 / (1 + p))
    return y


def _newton_fair(cosines: Array, a: Array, p: float, y: Array) -> Array:
    """Solve ``cosines @ y = a y^-p`` for y > 0, by Newton on the convex function it minimises, from
    ``y``."""
    last, sizes = np.inf, np.abs(cosines) * (len(a) * np.finfo(np.float64).eps)
    pull = a * y**-p
    gradient = cosines @ y - pull
    for _ in range(200):
        residual, rounding = float(np.abs(gradient / pull).max()), sizes @ y
        if residual <= 1e-10:
            return y
        if residual > last / 2 and (np.abs(gradient) <= KKT_TOL * pull + rounding).all():
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
