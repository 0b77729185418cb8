"""SDMGrad: the min-norm direction, regularised towards the mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, NonNegativeFloat
from torch import Tensor

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import Further, GradientView, Later, MethodInfo, StepProblem
from mtlbench.methods._simplex import project_simplex
from mtlbench.methods._solvers import min_norm

ROUNDS, RATE, MOMENTUM, EPS = 20, 5.0, 0.5, 1e-8


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

    With ``draws=3`` it is the paper's, as its code and LibMTL have it: with :math:`J_1, J_2` of two
    further batches of training data and the projection :math:`\Pi` onto the simplex, 20 times

    .. math:: v \leftarrow \Pi \left( v - 5 m \right), \quad
        m \leftarrow \tfrac12 m + C \left( v + \lambda \tfrac1K \mathbf 1 \right), \quad
        C = \frac{J_1 J_2^\top}{c^2 + 10^{-8}}, \quad
        c = \tfrac1K \sum_k \sqrt{\max(0, (J_1 J_2^\top)_{kk})}

    from the last step's v, and d is of the step's own J. That costs 2 forward and 2 K backward
    passes more and the K for d less but one; :math:`J_1` is kept.

    Args:
        n_tasks: K.
        lam: :math:`\lambda`; 0 is MGDA, infinity the mean gradient.
        solver: "nnls", or "cvxpy" (slow, certified).
        draws: from how many batches a step is: 1, or 3, which goes with the other options'
            defaults alone, but for ``lam``.
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
    simplex: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        lam: NonNegativeFloat = 0.3,
        solver: Literal["nnls", "cvxpy"] = "nnls",
        draws: Annotated[Literal[1, 3], Later(), BeforeValidator(int)] = 1,
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.lam, self.solver = lam, solver
        self._found: Tensor | None = None
        if draws == 1:
            return
        if (solver, self.refresh, self.at) != ("nnls", 1, "shared"):
            raise ValueError("draws=3 goes with no other solver, refresh or at")
        further = Further(2, forwards=2, backwards_per_task=2)
        vars(self)["info"] = replace(self.info, backwards="one", further=further)
        self.register_buffer("simplex", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))

    def look(self, problem: StepProblem) -> None:
        first, second = (other.view() for other in problem.further)
        J = first.jacobian()
        C = torch.stack([J @ second.row(k)[0] for k in range(self.n_tasks)], 1).to(self.simplex)
        size = C.diagonal().clamp_min(0).sqrt().mean()
        C = C / (size**2 + EPS)
        v = self._among_these()
        m = torch.zeros_like(v)
        for _ in range(ROUNDS):
            m = MOMENTUM * m + C @ (v + self.lam / self.n_tasks)
            v = project_simplex(v - RATE * m)
        self._found = v

    def weights(self, view: GradientView) -> Tensor:
        if self.info.further is None:
            return super().weights(view)
        v = self._among_these() if self._found is None else self._found
        return ((v + self.lam / self.n_tasks) / (1 + self.lam)).to(view.losses)

    def _among_these(self) -> Tensor:
        """The last v of the tasks at hand, which sums to 1; an absent one may hold all of it."""
        total = self.simplex.sum()
        return torch.where(total > 0, self.simplex / total, 1 / self.n_tasks)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        super().after_step(evaluate)
        if self._found is not None:
            self.simplex, self._found = self.simplex.sum() * self._found, None

    def solve(self, gramian: Array, losses: Array) -> Array:
        return self.solve_by(partial(min_norm, solver=self.solver), gramian)

    def solve_by(self, shortest: Callable[[Array], Array], gramian: Array) -> Array:
        """Weights from what ``shortest`` finds: v, from the Gramian of the hull's rows."""
        rows = self.rows()
        return np.asarray(shortest(rows @ gramian @ rows.T) @ rows)

    def rows(self) -> Array:
        """The hull's, in terms of J's."""
        return np.asarray((np.eye(self.n_tasks) + self.lam / self.n_tasks) / (1 + self.lam))
