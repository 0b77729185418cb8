"""What the methods that project onto the dual cone of the gradients share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.methods._preference import PreferredMethod
from mtlbench.methods._solvers import project_dual_cone


class DualConeMethod(PreferredMethod):
    r"""The mean of projections onto the dual cone :math:`\{x : J x \ge 0\}`.

    Args:
        n_tasks: K.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: see :class:`~mtlbench.methods._preference.PreferredMethod`.
    """

    def __init__(
        self,
        n_tasks: int,
        *,
        solver: Literal["nnls", "cvxpy"] = "nnls",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.solver = solver

    @abstractmethod
    def references(self) -> Array:
        """Weights (R, K) of the combinations of gradients that are projected."""

    def solve(self, gramian: Array, losses: Array) -> Array:
        projected = project_dual_cone(gramian, self.references(), self.solver, self.resolution)
        return np.asarray(projected.mean(axis=0))
