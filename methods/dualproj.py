"""DualProj: the mean gradient projected onto the dual cone of the gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mtlbench.gramian import Array, GramianMethod
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._solvers import project_dual_cone
from mtlbench.methods._yardsticks import Yardsticks, projection_gap, projection_yardsticks


class DualProj(GramianMethod):
    r"""The projection of `"Gradient Episodic Memory for Continual Learning"
    <https://arxiv.org/abs/1706.08840>`_ applied to the mean gradient :math:`g_0`, as in `"Jacobian
    Descent for Multi-Objective Optimization" <https://arxiv.org/abs/2406.16232>`_, which names it.

    .. math:: d = \arg\min_x \lVert x - g_0 \rVert \quad \text{subject to} \quad J x \ge 0

    Departs from the authors' code (TorchJD): the projection is found exactly by an active-set
    method; no ridge is added to G.

    Args:
        n_tasks: K.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="dualproj",
        title="DualProj",
        year=2017,
        arxiv="1706.08840",
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
        return project_dual_cone(gramian, self._mean()[0], self.solver)

    def yardsticks(self) -> Yardsticks:
        return projection_yardsticks(self._mean())

    def gap(self, gramian: Array, losses: Array, weights: Array) -> float:
        return projection_gap(gramian, weights, self._mean())

    def _mean(self) -> Array:
        """Weights of the mean gradient, (1, K)."""
        return np.full((1, self.n_tasks), 1 / self.n_tasks)
