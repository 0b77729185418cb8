"""ConFIG: the direction at one angle to all gradients, as long as their projections on it."""

from __future__ import annotations

import numpy as np

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._preference import PreferredMethod
from mtlbench.methods._solvers import equiangular


class ConFIG(PreferredMethod):
    r"""`"ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks"
    <https://arxiv.org/abs/2408.11104>`_.

    With the unit gradients as the rows of U and cosines :math:`C = U U^\top`,

    .. math:: d = \Big( \sum_k g_k^\top u \Big) u, \qquad
        u = \frac{x}{\lVert x \rVert}, \qquad x = U^{+} p = U^\top C^{+} p

    with a preference p, 1 for each task by default: the unit gradients' projections on u are in the
    ratios of p.

    Rows that are zero have no direction and get no weight; where the unit gradients cancel there is
    no such direction and the update is zero.

    Departs from the authors' code: none known but the pseudo-inverse, which is taken of C, with
    eigenvalues below the rounding error of float32 as zero.

    Args:
        n_tasks: K.
        common: preference, see :data:`~mtlbench.methods._preference.Preference`, and those of
            :class:`~mtlbench.engine.gramian.GramianMethod`.
    """

    info = MethodInfo(
        name="config",
        title="ConFIG",
        year=2024,
        arxiv="2408.11104",
        head_policy="unit",
        scale="sum",
        backwards="per-task",
        claims=("permutation", "scaling", "identical"),
    )

    def solve(self, gramian: Array, losses: Array) -> Array:
        y, cosines, norms = equiangular(gramian, self.preferred())
        square = float(y @ cosines @ y)  # of x; at least 1 where x has the projections p
        if square <= 1e-12:
            return np.zeros_like(y)
        length = norms @ cosines @ y / square
        return np.divide(length * y, norms, out=np.zeros_like(y), where=norms > 0)
