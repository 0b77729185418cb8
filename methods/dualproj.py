"""DualProj: the mean gradient projected onto the dual cone of the gradients."""

from __future__ import annotations

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._dual_cone import DualConeMethod


class DualProj(DualConeMethod):
    r"""The projection of `"Gradient Episodic Memory for Continual Learning"
    <https://arxiv.org/abs/1706.08840>`_ applied to the mean gradient :math:`g_0`, as in `"Jacobian
    Descent for Multi-Objective Optimization" <https://arxiv.org/abs/2406.16232>`_, which names it.

    .. math:: d = \arg\min_x \lVert x - g_0 \rVert \quad \text{subject to} \quad J x \ge 0

    with a preference p, the projection of :math:`\sum_k p_k g_k / \sum_k p_k`.

    Where gradients cancel the cone loses its interior, and J beside have other projections.

    Departs from the authors' code (TorchJD): the projection is found by an active-set method, and
    the ridge is of the size of the rounding error of G, not 1e-4. The ratios of a preference count,
    not its sum.

    Args:
        n_tasks: K.
        solver: "nnls", or "cvxpy" (slow, certified).
        common: preference, see :data:`~mtlbench.methods._preference.Preference`, and those of
            :class:`~mtlbench.engine.gramian.GramianMethod`.
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
        version=2,
        discontinuous="where the gradients cancel: the dual cone loses its interior",
    )

    def references(self) -> Array:
        return self.preferred()[None] / self.n_tasks
