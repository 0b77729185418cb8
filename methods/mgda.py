"""MGDA: the minimum-norm point of the convex hull of the task gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import HeadPolicy, MethodInfo
from mtlbench.methods._solvers import min_norm

TIES = 1000
"""The ridge in units of the rounding error, which moves weights by about a thousandth then."""


class MGDA(GramianMethod):
    r"""Min-norm weighting from `"Multi-Task Learning as Multi-Objective Optimization"
    <https://arxiv.org/abs/1810.04650>`_.

    .. math:: w = \arg\min_{w \in \Delta^{K-1}} \lVert J^\top w \rVert^2

    Departs from the authors' code: the optimum is found exactly (non-negative least squares), not
    by Frank-Wolfe. As there, ``normalize`` scales gradient k by 1/n_k before the solve only: with
    l2, n_k = |g_k|; with loss, n_k = L_k; with loss+, n_k = L_k |g_k|; the weights apply to the
    gradients as they are. Where scaled gradients are equal but the gradients are not, many weights
    are optimal: a ridge somewhat above rounding error chooses the most equal ones.

    Args:
        n_tasks: K.
        normalize: how each gradient is scaled before the solve.
        solver: "nnls", or "cvxpy" (slow, certified).
        heads: "unit" as in the paper (Algorithm 2) and in LibMTL: head k takes its own gradient;
            "weighted" as released with Nash-MTL and SAMO: it takes :math:`w_k` times that.
        common: see :class:`GramianMethod`; "representation" is the paper's MGDA-UB.
    """

    info = MethodInfo(
        name="mgda",
        title="MGDA",
        year=2018,
        arxiv="1810.04650",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "simplex", "non-conflict", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        normalize: Literal["none", "l2", "loss", "loss+"] = "none",
        solver: Literal["nnls", "cvxpy"] = "nnls",
        heads: HeadPolicy = "unit",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.use_heads(heads)
        self.normalize, self.solver = normalize, solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        return min_norm(self.normalized(gramian, losses), self.solver)

    def normalized(self, gramian: Array, losses: Array) -> Array:
        """The Gramian of the scaled gradients."""
        norms = np.sqrt(np.diag(gramian))
        sizes = {"l2": norms, "loss": losses, "loss+": losses * norms}.get(self.normalize)
        if sizes is None:
            return gramian
        inverse = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        scaled = gramian * np.outer(inverse, inverse)
        return np.asarray(scaled + np.diag(TIES * self.resolution * np.diag(scaled)))
