"""UPGrad: every gradient projected onto the dual cone, then averaged."""

from __future__ import annotations

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._dual_cone import DualConeMethod


class UPGrad(DualConeMethod):
    r"""`"Jacobian Descent for Multi-Objective Optimization" <https://arxiv.org/abs/2406.16232>`_.

    With :math:`\pi` the projection onto the dual cone :math:`\{x : J x \ge 0\}`,

    .. math:: d = \frac{1}{K} \sum_k \pi(g_k)

    with a preference p, :math:`d = \sum_k p_k \pi(g_k) / \sum_k p_k`.

    Where gradients cancel the cone loses its interior, and J beside have other projections.

    Departs from the authors' code (TorchJD): each projection is found by an active-set method, and
    the ridge is of the size of the rounding error of G, not 1e-4. The ratios of a preference count,
    not its sum.

    Args:
        n_tasks: K.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: preference, see :data:`~mtlbench.methods._preference.Preference`, and those of
            :class:`~mtlbench.engine.gramian.GramianMethod`.
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
        version=2,
        discontinuous="where the gradients cancel: the dual cone loses its interior",
    )

    def references(self) -> Array:
        return np.diag(self.preferred())
