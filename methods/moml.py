"""MOML: weights that lower the losses on data that a step was not taken on, all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import Further, GradientView, MethodInfo, StepProblem, WeightingMethod
from mtlbench.methods._adam import TaskAdam
from mtlbench.methods._cosines import RANK_TOL, SolveError
from mtlbench.methods._solvers import min_norm


class MOML(WeightingMethod):
    r"""`"Multi-Objective Meta Learning" <https://arxiv.org/abs/2102.07121>`_.

    With logits a, :math:`w = \operatorname{softmax}(a)`, :math:`S = \partial w / \partial a`, the
    gradients G of the batch's losses, trunk and heads together, and L' the losses of a batch that
    is held out,

    .. math:: \theta' = \theta - \eta \, G^\top w, \qquad
        u_k = - \eta \, \nabla L'_k(\theta')^\top G^\top S

    The minimum-norm point of the hull of the unit vectors :math:`u_k / \lVert u_k \rVert` is the
    gradient by which Adam moves the logits, which begin equal, and zero if it is no longer than a
    rounding error; the same step is then one of :math:`\sum_k w_k L_k`.

    Departs from the authors' code (that of FORUM): the min-norm point is exact, and the step is on
    the batch alone, not together with the one that is held out.

    Costs 2 forward and 2 K backward passes a step more, and memory for the K gradients.

    Args:
        n_tasks: K.
        eta: :math:`\eta`.
        lr: Adam's learning rate.
        held_out: share of the training data that L' is taken on.
    """

    info = MethodInfo(
        name="moml",
        title="MOML",
        year=2021,
        arxiv="2102.07121",
        head_policy="weighted",
        scale="mean",
        claims=("identical", "simplex", "stationarity"),
        further=Further(1, held_out=0.1, forwards=2, backwards_per_task=2),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        eta: PositiveFloat = 0.1,
        lr: PositiveFloat = 1e-3,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__(n_tasks)
        self.hold_out(held_out)
        self.eta = eta
        self.logits = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.logits], lr)
        self._slope: Tensor | None = None

    def look(self, problem: StepProblem) -> None:
        flat, (others,), w = problem.flat, problem.further, self.logits.detach().softmax(0)
        here, upper = problem.view(), []
        J, heads = here.jacobian(), here.head_grads()
        with flat.shifted(*flat.along(here.combine(w.to(J)), -self.eta)):
            there = others.view()
            for k, head in enumerate(heads):
                shared, own = there.row(k)
                inner = J @ shared
                inner[k] += head @ own
                upper.append(-self.eta * inner)
        u = torch.stack(upper) @ (w.diag() - w.outer(w)).to(J)
        norms = u.norm(dim=1, keepdim=True)
        rows = u / torch.where(norms > 0, norms, 1.0)
        (found,) = here.fetch(rows @ rows.T)
        try:
            nearest = min_norm(found)
            if nearest @ found @ nearest <= len(w) * RANK_TOL:
                nearest[:] = 0  # what is left is rounding error, of which Adam would make a step
            shares = torch.from_numpy(nearest)
        except SolveError:  # gradients that are not finite: the step is skipped for them
            shares = torch.full((len(w),), torch.nan)
        self._slope = (shares.to(rows) @ rows).to(w)

    def weights(self, view: GradientView) -> Tensor:
        a = self.logits.detach()
        if self._slope is not None:
            a = self.optimizer.peek(self.logits, self._slope)
        return a.softmax(0).to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._slope is not None:
            self.logits.grad, self._slope = self._slope, None
            self.optimizer.step()
