"""MoCo: min-norm weights from gradients that are averaged over the steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt, Le
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.interfaces.gradients import in_double, inner_products
from mtlbench.methods._columns import column_blocks
from mtlbench.methods._simplex import project_simplex


class MoCo(WeightingMethod):
    r"""Multi-objective gradient correction from `"Mitigating Gradient Bias in Multi-objective
    Learning: A Provably Convergent Stochastic Approach" <https://arxiv.org/abs/2210.12624>`_.

    With step sizes :math:`\beta_t = \beta / t^\sigma`, :math:`\gamma_t = \gamma / t^\sigma` and the
    projection :math:`\Pi` onto the simplex,

    .. math:: Y \leftarrow Y - \beta_t (Y - J), \qquad
        \lambda \leftarrow \Pi \left( \lambda - \gamma_t (Y Y^\top + \rho I) \lambda \right), \qquad
        d = Y^\top \lambda

    Departs from the authors' code as LibMTL passes it on: the projection is the paper's, not a
    softmax; gradients are not first scaled to the length of their losses; each row of Y begins at
    its task's first gradient, not at zero. As there, the new Y and :math:`\lambda` are used at
    once. The rows of Y are not projected onto a ball, whose radius the paper leaves open.

    Each row counts its own steps t. Where some tasks have no label, :math:`\lambda` moves among the
    others and their sum is kept; a task alone is plain descent, and its row follows.

    Args:
        n_tasks: K.
        beta: how fast Y follows the gradients.
        gamma: step size of :math:`\lambda`.
        rho: regularisation towards equal weights.
        decay: :math:`\sigma`.
    """

    info = MethodInfo(
        name="moco",
        title="MoCo",
        year=2023,
        arxiv="2210.12624",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "identical"),
    )
    on_host = ("rounds",)
    simplex: Tensor
    steps: Tensor
    rounds: Tensor
    tracked: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Gt(0), Le(1)] = 0.5,
        gamma: PositiveFloat = 0.1,
        rho: NonNegativeFloat = 0.0,
        decay: NonNegativeFloat = 0.5,
    ) -> None:
        super().__init__(n_tasks)
        self.beta, self.gamma, self.rho, self.decay = beta, gamma, rho, decay
        self.register_buffer("simplex", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tracked", torch.zeros(n_tasks, 0))  # (K, P) from the first step on
        self._proposed: tuple[Tensor, Tensor] | None = None

    def aggregate(self, view: GradientView) -> Update:
        J, total = view.jacobian(), self.simplex.sum()
        if view.n_tasks == 1:
            self._proposed = J, self.simplex
            return super().aggregate(view)
        # A task that holds all the weight may be absent: the others then start as equals.
        v = torch.where(total > 0, self.simplex / total, 1 / view.n_tasks).to(J.device)
        followed = partial(self._followed, J, self._speed().to(J))
        gramians = [inner_products(followed(columns)) for columns in column_blocks(J)]
        pull = torch.stack(gramians).sum(0).to(v) @ v + self.rho * v
        v = project_simplex(v - self.gamma / int(self.rounds + 1) ** self.decay * pull)
        self._proposed = J, total.to(v) * v
        update, w = J.new_empty(J.shape[1]), v.to(J)
        for columns in column_blocks(J):
            update[columns] = w @ followed(columns)
        return Update(update, view.head_grads())

    def _speed(self) -> Tensor:
        """How far each row of Y goes to that of J, (K, 1)."""
        t = in_double(self.steps + 1)[:, None]
        return torch.where(t > 1, self.beta / t**self.decay, 1.0)

    def _followed(self, J: Tensor, speed: Tensor, columns: slice) -> Tensor:
        """Columns of the new Y, which is nowhere whole before the step is done."""
        if not self.tracked.numel():
            return J[:, columns]
        return self.tracked[:, columns].to(J).lerp(J[:, columns], speed)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            J, self.simplex = self._proposed
            begun = self.tracked.numel() > 0
            self.tracked = self.tracked.to(J).lerp_(J, self._speed().to(J)) if begun else J.clone()
            self.steps += 1
            self.rounds += 1
            self._proposed = None
