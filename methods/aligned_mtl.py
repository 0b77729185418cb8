"""Aligned-MTL: gradients made orthogonal and equal in length."""

from __future__ import annotations

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._cosines import RANK_TOL
from mtlbench.methods._preference import PreferredMethod


class AlignedMTL(PreferredMethod):
    r"""`"Independent Component Alignment for Multi-Task Learning"
    <https://arxiv.org/abs/2305.19000>`_.

    The nearest matrix to J with singular values all equal to J's smallest, :math:`\hat J = B J`,
    from the eigen-decomposition :math:`G = V \Lambda V^\top` of rank r:

    .. math:: w = B p, \qquad B = \sqrt{\lambda_r} \, V \Lambda^{-1/2} V^\top

    with a preference p, 1 for each task by default. As in the authors' code, eigenvalues below the
    rounding error of float32 count as zero. It is the "min" variant, the paper's; if all rows are
    zero the weights are p.

    Departs from the authors' code: the ratios of a preference count, it is scaled to a mean of 1.

    Args:
        n_tasks: K.
        common: preference, see :data:`~mtlbench.methods._preference.Preference`, and those of
            :class:`~mtlbench.engine.gramian.GramianMethod`;
            "representation" is the paper's Aligned-MTL-UB.
    """

    info = MethodInfo(
        name="aligned_mtl",
        title="Aligned-MTL",
        year=2023,
        arxiv="2305.19000",
        head_policy="unit",
        scale="sum",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def solve(self, gramian: Array, losses: Array) -> Array:
        p = self.preferred()
        values, vectors = np.linalg.eigh(gramian)
        kept = values > values.max() * self.n_tasks * RANK_TOL
        if not kept.any():
            return p
        v, factors = vectors[:, kept], np.sqrt(values[kept].min() / values[kept])
        return np.asarray((v * factors) @ (v * p[:, None]).sum(axis=0))
