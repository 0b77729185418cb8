"""CAGrad: the best worst-case improvement in a ball around the mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._solvers import cagrad_dual, project_dual_cone


class CAGrad(GramianMethod):
    r"""`"Conflict-Averse Gradient Descent for Multi-task Learning"
    <https://arxiv.org/abs/2110.14048>`_.

    With the mean gradient :math:`g_0` and :math:`g_v = J^\top v`,

    .. math:: v = \arg\min_{v \in \Delta^{K-1}} g_v^\top g_0 + c \lVert g_0 \rVert \lVert g_v
        \rVert, \qquad d = \frac{1}{1 + c^2} \left( g_0 + c \frac{\lVert g_0 \rVert}{\lVert g_v
        \rVert} g_v \right)

    :math:`(1 + c^2) d` is the point of the ball around :math:`g_0` at which the task that gains
    least gains most. Where :math:`g_v` is zero up to rounding, the gradients cancel and no point
    does better than to leave that task as it is. Many may do so; d is the one nearest to
    :math:`g_0`, its projection onto the dual cone :math:`\{x : J x \ge 0\}`, which lies in the ball
    there. Right beside such J the formula applies, and d lies on the sphere.

    Departs from the authors' code: v is found exactly (a min-norm point and one scalar equation),
    not by SLSQP with finite differences, and the update is not multiplied by K (a protocol's
    ``gradient_scale`` does that for every method alike). The division by :math:`1 + c^2` is the
    authors' code's, not the paper's.

    Args:
        n_tasks: K.
        c: radius of the ball in units of :math:`\lVert g_0 \rVert`; 0 is the mean gradient.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="cagrad",
        title="CAGrad",
        year=2021,
        arxiv="2110.14048",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "stationarity"),
        version=2,
        discontinuous="where the gradients cancel: many points of the ball are best",
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        c: NonNegativeFloat = 0.4,
        solver: Literal["nnls", "cvxpy"] = "nnls",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.c, self.solver = c, solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        return self.solve_by(partial(cagrad_dual, c=self.c, solver=self.solver), gramian)

    def solve_by(self, dual: Callable[[Array], Array], gramian: Array) -> Array:
        """Weights from what ``dual`` finds: v, from the Gramian."""
        K, v = self.n_tasks, dual(gramian)
        radius, size = self.c * max(gramian.mean(), 0.0) ** 0.5, _length(gramian, v)
        equal, rounding = np.full(K, 1 / K), (2 * K * self.resolution) ** 0.5
        if size <= rounding * float(v @ np.sqrt(np.diag(gramian))):
            v = project_dual_cone(gramian, equal, self.solver, self.resolution) - equal
            size = max(_length(gramian, v), radius)
        ratio = radius / size if size else 0.0
        return np.asarray((equal + ratio * v) / (1 + self.c**2))


def _length(gramian: Array, weights: Array) -> float:
    return float(np.sqrt(np.maximum(weights @ gramian @ weights, 0)))
