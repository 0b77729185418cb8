"""Straightforward ways to the weights, and how far any weights are from optimal.

``mtlbench bench solvers`` times the solvers of :mod:`mtlbench.methods._solvers` against these: what
the methods' authors released, or what one would write first. Nothing trains with them. Every way
takes the Gramian of shape ``(K, K)`` and returns weights of shape ``(K,)``, numpy float64.
``YARDSTICKS`` says which method has which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import Bounds, least_squares, minimize

from mtlbench.engine.gramian import Array
from mtlbench.methods._solvers import cagrad_dual, fair, min_norm, project_dual_cone

if TYPE_CHECKING:
    from mtlbench.methods._dual_cone import DualConeMethod
    from mtlbench.methods.cagrad import CAGrad
    from mtlbench.methods.mgda import MGDA
    from mtlbench.methods.sdmgrad import SDMGrad

Way = Callable[[Array], Array]


@dataclass(frozen=True)
class Yardsticks:
    """What a method's solve is held against.

    Args:
        ways: other ways to the same weights, functions of the Gramian and the losses, by name.
        gap: how far weights (K,) are from what the method is to find, from the Gramian, the losses
            and them: a relative optimality gap, or the residual of a condition; 0 at the optimum.
    """

    ways: Mapping[str, Callable[[Array, Array], Array]]
    gap: Callable[[Array, Array, Array], float]


ITERATIONS: Final = 250
_SMOOTHING: Final = 1e-8
_TINY: Final = float(np.finfo(np.float64).tiny)


# ------------------------------------------------------------------------------------ min-norm
def released_min_norm(gramian: Array, change: float = 1e-5) -> Array:
    """The loop that was released with `"Multi-Task Learning as Multi-Objective Optimization"
    <https://arxiv.org/abs/1810.04650>`_.

    It starts from the best pair of tasks and searches along the projected gradient, with inner
    products that are looked up one by one, until the weights ``change`` by less in a step. Departs
    from it in one thing: the released loop never counts its iterations, this one ends after 250.
    """
    K = len(gramian)
    inner = {(i, j): float(gramian[i, j]) for i in range(K) for j in range(K)}
    w, shortest = np.ones(K) / K, np.inf
    for i in range(K):
        for j in range(i + 1, K):
            share, square = _between(inner[i, i], inner[i, j], inner[j, j])
            if square < shortest:
                w, shortest = np.zeros(K), square
                w[i], w[j] = share, 1 - share
    if K < 3:
        return w
    for _ in range(ITERATIONS):
        ahead = _ahead(w, -gramian @ w)
        aa = ab = bb = 0.0
        for i in range(K):
            for j in range(K):
                aa += w[i] * w[j] * inner[i, j]
                ab += w[i] * ahead[j] * inner[i, j]
                bb += ahead[i] * ahead[j] * inner[i, j]
        share, _ = _between(aa, ab, bb)
        moved = share * w + (1 - share) * ahead
        if np.abs(moved - w).sum() < change:
            break
        w = moved
    return w


def _between(aa: float, ab: float, bb: float) -> tuple[float, float]:
    """Share of a in the shortest vector between a and b, and its squared length."""
    if ab >= aa:
        return 0.999, aa
    if ab >= bb:
        return 0.001, bb
    share = (bb - ab) / (aa + bb - 2 * ab)
    return share, bb + share * (ab - bb)


def _ahead(w: Array, direction: Array) -> Array:
    """As far along the direction, less its mean, as every entry stays within 0 and 1."""
    level = direction - direction.sum() / len(w)
    down, up = level < 0, level > 0
    steps = np.concatenate([-w[down] / level[down], (1 - w[up]) / level[up]])
    steps = steps[steps > 1e-7]
    return _onto_simplex(w + level * (steps.min() if steps.size else 1.0))


def _onto_simplex(y: Array) -> Array:
    """The nearest point of the simplex."""
    ordered = np.sort(y)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(y) + 1)
    nearest: Array = np.maximum(y - excess[np.flatnonzero(ordered > excess)[-1]], 0)
    return nearest


def projected_loop(gramian: Array) -> Array:
    """250 steps of projected gradient descent, each as long as the largest eigenvalue allows."""
    w = np.full(len(gramian), 1 / len(gramian))
    step = 1 / float(np.linalg.norm(gramian, 2))
    for _ in range(ITERATIONS):
        w = _onto_simplex(w - step * (gramian @ w))
    return w


MIN_NORM: Final[Mapping[str, Way]] = {
    "released loop": released_min_norm,
    "released loop, full": partial(released_min_norm, change=0.0),
    "projected loop": projected_loop,
    "cvxpy": partial(min_norm, solver="cvxpy"),
}


def min_norm_gap(gramian: Array, weights: Array) -> float:
    """Squared length of the hull's point, relative to a lower bound of the shortest, minus 1.

    No point of the hull is nearer to 0 than a plane that all rows lie beyond: the exact solution's.
    """
    best, w = min_norm(gramian), _as_simplex(weights)
    bound = max(float((gramian @ best).min()), 0.0) ** 2 / max(float(best @ gramian @ best), _TINY)
    return max(float(w @ gramian @ w) - bound, 0.0) / max(bound, _TINY)


# ------------------------------------------------------------------------------------ CAGrad
def cagrad_slsqp(gramian: Array, c: float) -> Array:
    """SLSQP with finite differences from equal weights, as released with `"Conflict-Averse Gradient
    Descent for Multi-task Learning" <https://arxiv.org/abs/2110.14048>`_."""
    K = len(gramian)
    start = np.full(K, 1 / K)
    radius = c * np.sqrt(gramian.mean() + _SMOOTHING) + _SMOOTHING

    def objective(w: Array) -> float:
        return float(w @ gramian @ start + radius * np.sqrt(w @ gramian @ w + _SMOOTHING))

    def missing(w: Array) -> float:
        return 1 - float(w.sum())

    found = minimize(
        objective,
        start,
        method="SLSQP",
        bounds=Bounds(0, 1),
        constraints={"type": "eq", "fun": missing},
    )
    return np.asarray(found.x)


def cagrad_gap(gramian: Array, weights: Array, c: float) -> float:
    """Objective of the dual above a lower bound, relative to the size of its terms.

    The objective is convex and of degree one: its slope at the exact solution bounds it everywhere.
    """
    inner, equal = gramian.mean(axis=1), np.full(len(gramian), 1 / len(gramian))
    radius, best, w = c * _length(gramian, equal), cagrad_dual(gramian, c), _as_simplex(weights)
    bound = float((inner + radius * (gramian @ best) / max(_length(gramian, best), _TINY)).min())
    value = float(w @ inner) + radius * _length(gramian, w)
    size = abs(float(best @ inner)) + radius * _length(gramian, best)
    return max(value - bound, 0.0) / max(size, _TINY)


# ------------------------------------------------------------------------------------ FairGrad
def fair_least_squares(gramian: Array, alpha: float) -> Array:
    """Least squares with finite differences from equal weights, as released with `"Fair Resource
    Allocation in Multi-Task Learning" <https://arxiv.org/abs/2402.15638>`_."""
    K = len(gramian)

    def residual(w: Array) -> Array:
        return np.asarray(gramian @ w - (1 / w) ** (1 / alpha))

    return np.asarray(least_squares(residual, np.full(K, 1 / K), bounds=(0, np.inf)).x)


def fair_residual(gramian: Array, weights: Array, alpha: float) -> float:
    r"""Largest entry of :math:`\lvert (G w)^\alpha w - 1 \rvert`."""
    return float(np.abs(np.maximum(gramian @ weights, 0) ** alpha * weights - 1).max())


# ------------------------------------------------------------------------------------ dual cone
def project_slsqp(gramian: Array, references: Array) -> Array:
    """The projections of ``references`` (R, K), each a quadratic programme for SLSQP."""

    def project(r: Array) -> Array:
        def objective(v: Array) -> float:
            return float((r + v) @ gramian @ (r + v)) / 2

        def slope(v: Array) -> Array:
            return np.asarray(gramian @ (r + v))

        start, bounds = np.zeros_like(r), Bounds(0, np.inf)
        found = minimize(objective, start, jac=slope, method="SLSQP", bounds=bounds)
        return np.asarray(r + found.x)

    return np.stack([project(r) for r in references])


def projection_gap(gramian: Array, weights: Array, references: Array) -> float:
    """Squared distance from the mean of the exact projections, relative to its squared length, plus
    the largest residual of their optimality conditions, relative to what is projected."""
    exact = project_dual_cone(gramian, references)
    mean, inner = exact.mean(axis=0), exact @ gramian
    away = weights - mean
    sizes = np.sqrt(np.einsum("rj,jk,rk->r", references, gramian, references))[:, None]
    outside = np.maximum(-inner / np.sqrt(np.diag(gramian)) / sizes, 0)
    slack = np.abs((exact - references) * inner).sum(axis=1, keepdims=True) / sizes**2
    distance = float(away @ gramian @ away) / float(mean @ gramian @ mean)
    return max(distance, 0.0) + max(float(outside.max()), float(slack.max()))


def _as_simplex(weights: Array) -> Array:
    """What an inexact way returned, made feasible."""
    w: Array = np.maximum(weights, 0)
    return w / float(w.sum())


def _length(gramian: Array, w: Array) -> float:
    return float(np.sqrt(np.maximum(w @ gramian @ w, 0)))


# ------------------------------------------------------------------------------------ of methods
def of_mgda(method: MGDA) -> Yardsticks:
    """On the scaled gradients."""

    def solve(way: Way, gramian: Array, losses: Array) -> Array:
        return way(method.normalized(gramian, losses))

    def gap(gramian: Array, losses: Array, weights: Array) -> float:
        return min_norm_gap(method.normalized(gramian, losses), weights)

    return Yardsticks({name: partial(solve, way) for name, way in MIN_NORM.items()}, gap)


def of_sdmgrad(method: SDMGrad) -> Yardsticks:
    """Ways to the shortest vector of the hull."""

    def solve(way: Way, gramian: Array, losses: Array) -> Array:
        return method.solve_by(way, gramian)

    def gap(gramian: Array, losses: Array, weights: Array) -> float:
        rows, v = method.rows(), (1 + method.lam) * weights - method.lam / method.n_tasks
        return min_norm_gap(rows @ gramian @ rows.T, v)

    return Yardsticks({name: partial(solve, way) for name, way in MIN_NORM.items()}, gap)


def of_cagrad(method: CAGrad) -> Yardsticks:
    """Ways to the dual's weights on the simplex."""
    duals: Mapping[str, Way] = {
        "SLSQP": partial(cagrad_slsqp, c=method.c),
        "cvxpy": partial(cagrad_dual, c=method.c, solver="cvxpy"),
    }

    def solve(dual: Way, gramian: Array, losses: Array) -> Array:
        return method.solve_by(dual, gramian)

    def gap(gramian: Array, losses: Array, weights: Array) -> float:
        v = (1 + method.c**2) * weights - 1 / method.n_tasks
        return cagrad_gap(gramian, v, method.c) if method.c else 0.0

    return Yardsticks({name: partial(solve, dual) for name, dual in duals.items()}, gap)


def of_fair(alpha: float) -> Yardsticks:
    """Ways to the positive weights."""

    def least(gramian: Array, losses: Array) -> Array:
        return fair_least_squares(gramian, alpha)

    def certified(gramian: Array, losses: Array) -> Array:
        return fair(gramian, alpha, solver="cvxpy")

    def gap(gramian: Array, losses: Array, weights: Array) -> float:
        return fair_residual(gramian, weights, alpha)

    return Yardsticks({"least squares": least, "cvxpy": certified}, gap)


def of_projection(method: DualConeMethod) -> Yardsticks:
    """Ways to the mean of the projections onto the dual cone."""
    references = method.references()
    projections: Mapping[str, Callable[[Array, Array], Array]] = {
        "SLSQP": project_slsqp,
        "cvxpy": partial(project_dual_cone, solver="cvxpy"),
    }

    def solve(project: Callable[[Array, Array], Array], gramian: Array, losses: Array) -> Array:
        return np.asarray(project(gramian, references).mean(axis=0))

    def gap(gramian: Array, losses: Array, weights: Array) -> float:
        return projection_gap(gramian, weights, references)

    return Yardsticks({name: partial(solve, way) for name, way in projections.items()}, gap)


YARDSTICKS: Final[Mapping[str, Callable[[Any], Yardsticks]]] = {
    "cagrad": of_cagrad,
    "dualproj": of_projection,
    "fairgrad": lambda method: of_fair(method.alpha),
    "mgda": of_mgda,
    "nashmtl": lambda method: of_fair(1.0),
    "sdmgrad": of_sdmgrad,
    "upgrad": of_projection,
}
"""By the name of the method."""
