"""MoDo: min-norm weights by one projected step, on two batches of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mtlbench.interfaces import Further, GradientView, MethodInfo, StepProblem, WeightingMethod
from mtlbench.methods._simplex import project_simplex


class MoDo(WeightingMethod):
    r"""Double sampling, from `"Three-Way Trade-Off in Multi-Objective Learning: Optimization,
    Generalization and Conflict-Avoidance" <https://arxiv.org/abs/2305.20057>`_.

    With the gradients :math:`J_1, J_2` of two further batches of training data, :math:`J_3` of the
    step's own, and the projection :math:`\Pi` onto the simplex,

    .. math:: \lambda \leftarrow \Pi \left( \lambda - \gamma \left( J_1 J_2^\top \lambda
        + \rho \lambda \right) \right), \qquad d = J_3^\top \lambda

    As in LibMTL, the new :math:`\lambda` is used at once, and J are the gradients of the trunk.
    Departs from it: head k gets :math:`\lambda_k` times its gradient on the step's own batch, as
    the paper has one vector of parameters, not the mean of its gradients on all three; the authors'
    code draws two batches and steps along the sum of both. For :math:`\gamma` LibMTL has 0.001 and
    the authors' code 0.1: it is to be chosen by the size of the gradients.

    Costs 2 forward and K + 1 backward passes a step more; no matrix of gradients is kept. Where
    some tasks have no label, :math:`\lambda` moves among the others and their sum is kept.

    Args:
        n_tasks: K.
        gamma: step size of :math:`\lambda`.
        rho: regularisation towards equal weights.
    """

    info = MethodInfo(
        name="modo",
        title="MoDo",
        year=2023,
        arxiv="2305.20057",
        head_policy="weighted",
        scale="mean",
        claims=("permutation", "identical", "simplex"),
        further=Further(2, forwards=2, backwards=1, backwards_per_task=1),
    )
    simplex: Tensor

    def __init__(
        self, n_tasks: int, *, gamma: PositiveFloat = 1e-2, rho: NonNegativeFloat = 0.1
    ) -> None:
        super().__init__(n_tasks)
        self.gamma, self.rho = gamma, rho
        self.register_buffer("simplex", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))
        self._proposed: tuple[Tensor, Tensor] | None = None

    def look(self, problem: StepProblem) -> None:
        first, second = problem.further
        lam = self._among_these()
        direction = second.view().combine(lam.to(problem.flat.data)).shared
        there = first.view()
        pull = torch.stack([there.row(k)[0] @ direction for k in range(len(lam))]).to(lam)
        lam = project_simplex(lam - self.gamma * (pull + self.rho * lam))
        self._proposed = lam, self.simplex.sum() * lam

    def _among_these(self) -> Tensor:
        """Weights that sum to 1; a task that is absent may hold all the weight."""
        total = self.simplex.sum()
        return torch.where(total > 0, self.simplex / total, 1 / len(self.simplex))

    def weights(self, view: GradientView) -> Tensor:
        lam = self._among_these() if self._proposed is None else self._proposed[0]
        return lam.to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.simplex, self._proposed = self._proposed[1], None
