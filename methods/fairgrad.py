"""FairGrad: alpha-fair weights, utility being a task's own decrease."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PositiveFloat

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import HeadPolicy, Later, MethodInfo
from mtlbench.methods._solvers import fair


class FairGrad(GramianMethod):
    r"""`"Fair Resource Allocation in Multi-Task Learning" <https://arxiv.org/abs/2402.15638>`_.

    .. math:: (G w)^{\alpha} = 1 / w \quad \text{(elementwise)}

    No loss grows, to first order, as all of :math:`G w` is positive. Where the gradients cancel
    there is no such w; with the ridge of :func:`~mtlbench.methods._solvers.fair` a loss may then
    grow by a thousandth of the update's length.

    Departs from the authors' code: a damped Newton method on the convex objective finds w to 1e-8,
    where the released ``least_squares`` with finite differences stops earlier; the update is not
    multiplied by K.

    Args:
        n_tasks: K.
        alpha: fairness; 1 is Nash-MTL's condition, 2 the released runs' value.
        solver: "newton", or "cvxpy" (slow, certified).
        heads: "unit" as released: head k takes its own gradient; "weighted" as in LibMTL: it takes
            :math:`w_k` times that.
        common: see :class:`GramianMethod`.
    """

    info = MethodInfo(
        name="fairgrad",
        title="FairGrad",
        year=2024,
        arxiv="2402.15638",
        head_policy="unit",
        backwards="per-task",
        claims=("permutation", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        alpha: PositiveFloat = 2.0,
        solver: Literal["newton", "cvxpy"] = "newton",
        heads: Annotated[HeadPolicy, Later()] = "unit",
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.use_heads(heads)
        self.alpha, self.solver = alpha, solver

    def solve(self, gramian: Array, losses: Array) -> Array:
        return fair(gramian, self.alpha, self.solver)
