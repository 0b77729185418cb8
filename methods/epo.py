"""EPO: descent to the point of the Pareto front where the losses are in given ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat
from scipy.optimize import linprog

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._cosines import scaled
from mtlbench.methods._preference import PreferredMethod

EPS = 1e-8


class EPO(PreferredMethod):
    r"""Exact Pareto optimal search from `"Multi-Task Learning with User Preferences: Gradient
    Descent with Controlled Ascent in Pareto Optimization"
    <https://proceedings.mlr.press/v119/mahapatra20a.html>`_ (also arXiv 2010.06313).

    The losses weighted by the preference r are to become equal. With their shares
    :math:`\hat\ell_k = r_k L_k / \sum_j r_j L_j`,

    .. math:: \mu = \sum_k \hat\ell_k \log (K \hat\ell_k), \qquad
        a_k = r_k \left( \log (K \hat\ell_k) - \mu \right), \qquad
        w = \arg\max_{w \in \Delta^{K-1}} c^\top w \;\text{ subject to }\; G w \ge b

    a linear programme, where

    - for :math:`\mu > \varepsilon` (balance) c = G a, and :math:`b_k` is 0 for the largest weighted
      losses, which must not grow; elsewhere it is :math:`c_k` where that is not positive, and there
      is no bound where it is. If no :math:`c_k` is positive, b = 0;
    - else (descent) :math:`c = G \mathbf 1` and b = 0, and also :math:`a^\top G w \ge \min(0,
      \max_k (G a)_k)`, which is left out where it leaves no w.

    Solutions are corners of a polytope, which jump from one to another as G changes.

    Departs from the authors' code: weights sum to 1, as in the paper, not to K; rows are scaled to
    unit length before the solve; a loss below 1e-8 counts as 1e-8; without a solution the last
    good weights are kept, not the preference. r has length 1, as there on the circle.

    Args:
        n_tasks: K.
        eps: :math:`\varepsilon`.
        common: preference, see :data:`~mtlbench.methods._preference.Preference`, and those of
            :class:`~mtlbench.engine.gramian.GramianMethod`.
    """

    info = MethodInfo(
        name="epo",
        title="EPO",
        year=2020,
        arxiv="2010.06313",
        head_policy="weighted",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
        discontinuous="everywhere: corners of a polytope take turns",
    )

    def __init__(self, n_tasks: int, *, eps: PositiveFloat = 1e-4, **common: Any) -> None:
        super().__init__(n_tasks, **common)
        self.eps = eps

    def solve(self, gramian: Array, losses: Array) -> Array:
        cosines, norms, _ = scaled(gramian)
        G = norms[:, None] * cosines * norms
        r = self.preferred() / float(np.linalg.norm(self.preferred()))
        weighted = r * np.maximum(losses, EPS)
        logs = np.log(self.n_tasks * weighted / weighted.sum())
        mu = float(weighted @ logs) / float(weighted.sum())
        pull = G @ (r * (logs - mu))
        if mu > self.eps:
            bound = np.zeros_like(pull)
            if (pull > 0).any():
                bound = np.where(pull > 0, -np.inf, pull)
                bound[weighted == weighted.max()] = 0
            return _programme(pull, G, bound)
        descent, at_rest = G.sum(axis=0), np.zeros_like(pull)
        try:
            bounds = np.append(at_rest, min(0.0, float(pull.max())))
            return _programme(descent, np.vstack([G, pull]), bounds)
        except ArithmeticError:
            return _programme(descent, G, at_rest)


def _programme(objective: Array, rows: Array, bounds: Array) -> Array:
    """Simplex weights w of the largest ``objective @ w`` with ``rows @ w >= bounds``."""
    sizes = np.abs(rows).max(axis=1)
    kept: NDArray[np.bool_] = (sizes > 0) & (bounds > -np.inf)
    scale = max(float(np.abs(objective).max()), 1e-300)
    found = linprog(
        -objective / scale,
        A_ub=-rows[kept] / sizes[kept, None],
        b_ub=-bounds[kept] / sizes[kept],
        A_eq=np.ones((1, len(objective))),
        b_eq=[1.0],
        method="highs",
    )
    if found.status != 0:
        raise ArithmeticError(f"the linear programme has no solution: {found.message}")
    w = np.maximum(np.asarray(found.x), 0)
    return np.asarray(w / w.sum())
