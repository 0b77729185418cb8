"""IMTL-G: an update whose projections on all task gradients are equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import HeadPolicy, MethodInfo
from mtlbench.methods._solvers import equiangular


class IMTLG(GramianMethod):
    r"""The gradient balance of `"Towards Impartial Multi-task Learning"
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_.

    With unit gradients :math:`u_k = g_k / \lVert g_k \rVert`, cosines :math:`C_{jk} = u_j^\top
    u_k` and :math:`d = J^\top w`,

    .. math:: u_1^\top d = \dots = u_K^\top d, \quad \sum_k w_k = 1
        \qquad \Longrightarrow \qquad
        w_k \propto \frac{(C^{+} \mathbf 1)_k}{\lVert g_k \rVert}

    Weights may be negative. Rows that are zero have no direction and get no weight; where the unit
    gradients cancel, so that no d has the same positive projection on all, or the weights sum to
    zero, there is no solution and the last good weights are kept.

    Departs from the authors' equations: the pseudo-inverse of C in place of the inverse of
    :math:`D U^\top` (the same where that exists), with eigenvalues below the rounding error of
    float32 taken as zero.

    Args:
        n_tasks: K.
        heads: "unit" as in the paper and in LibMTL: head k takes its own gradient; "weighted" as
            released with Nash-MTL and SAMO: it takes :math:`w_k` times that, which lets it climb
            its loss where :math:`w_k` is negative.
        common: see :class:`GramianMethod`; "representation" is the paper's. The default is what
            Nash-MTL's code and LibMTL compare with, and works with every wrapper.
    """

    info = MethodInfo(
        name="imtl_g",
        title="IMTL-G",
        year=2021,
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, heads: HeadPolicy = "unit", **common: Any) -> None:
        super().__init__(n_tasks, **common)
        self.use_heads(heads)

    def solve(self, gramian: Array, losses: Array) -> Array:
        y, _, norms = equiangular(gramian)
        if not norms.any():
            return np.full(self.n_tasks, 1 / self.n_tasks)
        w = np.divide(y, norms, out=np.zeros_like(y), where=norms > 0)
        # The sum of y is the squared norm of the projection of 1 on the range of C, up to scale.
        if y.sum() <= 1e-12 or abs(w.sum()) <= 1e-12 * np.abs(w).sum():
            raise ArithmeticError("no direction has equal projections on the gradients")
        return w / float(w.sum())
