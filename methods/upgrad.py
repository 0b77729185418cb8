"""UPGrad: every gradient projected onto the dual cone, then averaged."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mtlbench.gramian import Array, GramianMethod
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._solvers import project_dual_cone
from mtlbench.methods._yardsticks import Yardsticks, projection_gap, projection_yardsticks


class UPGrad(GramianMethod):
    r"""`"Jacobian Descent for Multi-Objective Optimization" <https://arxiv.org/abs/2406.16232>`_.

    With :math:`\pi` the projection onto the dual cone :math:`\{x : J x \ge 0\}`,

    .. math:: d = \frac{1}{K} \sum_k \pi(g_k)

    Departs from the authors' code (TorchJD): each projection is found exactly by an active-set
    method; no ridge is added to G.

    Args:
        n_tasks: K.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="upgrad",
        title="UPGrad",
        year=2024,
        arxiv="2406.16232",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "non-conflict", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        solver: Literal["nnls", "cvxpy"] = "nnls",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.solver = solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        projected = project_dual_cone(gramian, np.eye(self.n_tasks), self.solver)
        return np.asarray(projected.mean(axis=0))

    def yardsticks(self) -> Yardsticks:
        return projection_yardsticks(np.eye(self.n_tasks))

    def gap(self, gramian: Array, losses: Array, weights: Array) -> float:
        return projection_gap(gramian, weights, np.eye(self.n_tasks))
