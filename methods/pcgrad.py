"""PCGrad: conflicting gradients projected off one another, in random order."""

from __future__ import annotations

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._orders import InRandomOrders


class PCGrad(InRandomOrders):
    r"""`"Gradient Surgery for Multi-Task Learning" <https://arxiv.org/abs/2001.06782>`_.

    For each task i, starting from :math:`g_i' = g_i`, and for the other tasks j in a random order
    of its own,

    .. math:: g_i' \leftarrow g_i' - \frac{\min(g_i'^\top g_j, 0)}{\lVert g_j \rVert^2} g_j,
        \qquad d = \sum_i g_i'

    Every :math:`g_i'` is a combination of the gradients with coefficients that follow from G and
    the orders; d has their sums as weights. Nothing is projected off a zero row.

    Departs from the authors' code: none known; the K loops run side by side.

    Args:
        n_tasks: K.
        common: see :class:`~mtlbench.engine.gramian.GramianMethod`.
    """

    info = MethodInfo(
        name="pcgrad",
        title="PCGrad",
        year=2020,
        arxiv="2001.06782",
        head_policy="unit",
        scale="sum",
        backwards="per-task",
        claims=("scaling", "identical", "stationarity"),
    )

    def solve(self, gramian: Array, losses: Array) -> Array:
        squares, tasks = np.diag(gramian), np.arange(self.n_tasks)
        w = np.eye(self.n_tasks)  # row i: the coefficients of g_i'
        for j in self._orders.T:  # j[i]: whom g_i' meets next
            inner = (w * gramian[j]).sum(axis=1)
            conflict = (inner < 0) & (j != tasks) & (squares[j] > 0)
            w[tasks[conflict], j[conflict]] -= inner[conflict] / squares[j[conflict]]
        return np.asarray(w.sum(axis=0))
