"""Nash-MTL: the Nash bargaining solution of the tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import NonNegativeFloat

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import GradientView, HeadPolicy, Later, MethodInfo, Update
from mtlbench.methods._solvers import fair


class NashMTL(GramianMethod):
    r"""`"Multi-Task Learning as a Bargaining Game" <https://arxiv.org/abs/2202.01017>`_.

    .. math:: G w = 1 / w \quad \text{(elementwise)}

    As in the authors' code, the update of the shared parameters is then shortened to a norm of at
    most ``max_norm``; the heads keep the weights as solved for. An exact solution has
    :math:`\lVert J^\top w \rVert^2 = w^\top G w = K`, so with the default every step but those
    between refreshes has length 1.

    No loss grows, to first order, as all of :math:`G w` is positive. Where the gradients cancel
    there is no such w; with the ridge of :func:`~mtlbench.methods._solvers.fair` a loss may then
    grow by a thousandth of the update's length.

    Departs from the authors' code: a damped Newton method on the convex objective finds w to 1e-8,
    where the released code stops after 20 steps of a linearised problem.

    Args:
        n_tasks: K.
        max_norm: bound of the norm of the shared update; 0 for none.
        solver: "newton", or "cvxpy" (slow, certified).
        heads: "weighted" as in the paper, whose weights are the whole loss's, and as released;
            "unit" as in LibMTL: head k takes its own gradient.
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="nashmtl",
        title="Nash-MTL",
        year=2022,
        arxiv="2202.01017",
        head_policy="weighted",
        backwards="per-task",
        claims=("permutation", "row-scaling", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        max_norm: NonNegativeFloat = 1.0,
        solver: Literal["newton", "cvxpy"] = "newton",
        heads: Annotated[HeadPolicy, Later()] = "weighted",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.use_heads(heads)
        self.max_norm, self.solver = max_norm, solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        return fair(gramian, 1.0, self.solver)

    def aggregate(self, view: GradientView) -> Update:
        update = super().aggregate(view)
        if view.n_tasks == 1 or not self.max_norm:
            return update
        factor = (self.max_norm / update.shared.norm()).clamp(max=1.0)
        weights = None if update.weights is None else factor * update.weights
        return Update(factor * update.shared, update.heads, weights)
