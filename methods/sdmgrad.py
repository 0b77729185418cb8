"""SDMGrad: the min-norm direction, regularised towards the mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._solvers import min_norm


class SDMGrad(GramianMethod):
    r"""`"Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms"
    <https://arxiv.org/abs/2305.18409>`_.

    With the mean gradient :math:`g_0`,

    .. math:: v = \arg\min_{v \in \Delta^{K-1}} \tfrac12 \lVert J^\top v + \lambda g_0 \rVert^2,
        \qquad d = \frac{J^\top v + \lambda g_0}{1 + \lambda}

    that is the minimum-norm point of the hull of the rows :math:`(g_k + \lambda g_0) / (1 +
    \lambda)`.

    Departs from the paper: v is the exact optimum on the batch at hand, found by non-negative least
    squares, not 20 projected gradient steps from the last v on gradients of two more batches.

    Args:
        n_tasks: K.
        lam: :math:`\lambda`; 0 is MGDA, infinity the mean gradient.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="sdmgrad",
        title="SDMGrad",
        year=2023,
        arxiv="2305.18409",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        lam: NonNegativeFloat = 0.3,
        solver: Literal["nnls", "cvxpy"] = "nnls",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.lam, self.solver = lam, solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        return self.solve_by(partial(min_norm, solver=self.solver), gramian)

    def solve_by(self, shortest: Callable[[Array], Array], gramian: Array) -> Array:
        """Weights from what ``shortest`` finds: v, from the Gramian of the hull's rows."""
        rows = self.rows()
        return np.asarray(shortest(rows @ gramian @ rows.T) @ rows)

    def rows(self) -> Array:
        """The hull's, in terms of J's."""
        return np.asarray((np.eye(self.n_tasks) + self.lam / self.n_tasks) / (1 + self.lam))
