"""Friendly SAM: ascent along what is peculiar to the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from mtlbench.interfaces import GradientView, Move, SharpnessInfo, StepProblem, Update
from mtlbench.methods.sharpness._ball import Block, PointWrapper


class FriendlySAM(PointWrapper):
    r"""`"Friendly Sharpness-Aware Minimization" <https://arxiv.org/abs/2403.12350>`_ on the mean
    loss of the tasks, or on each task's own.

    .. math:: m_t = \lambda m_{t-1} + (1 - \lambda) g_t, \quad m_0 = 0, \qquad
        \epsilon = \rho \, \frac{g_t - \sigma m_t}{\lVert g_t - \sigma m_t \rVert}, \qquad
        J_k = \nabla L_k(\theta + \epsilon)

    where :math:`g_t` is the gradient at the parameters, not that at the perturbed point: its
    running mean m stands for the gradient of all data, and what is left is the batch's noise.

    Known from the abstract, a second-hand account of the algorithm and copies of the released code,
    not from the paper's text. The released code subtracts :math:`m_{t-1}` and starts it at the
    first gradient; at :math:`\sigma = 1` the directions are those here once the start is forgotten,
    as :math:`g_t - m_t = \lambda (g_t - m_{t-1})`.

    Ours: ``points="per-task"``, with :math:`m_k` and :math:`\epsilon_k` of each task's own
    gradient, which is :class:`~mtlbench.methods.sharpness.lsam.LSAM` for :math:`\sigma = 0`. A task
    without a label in the batch keeps its :math:`m_k`.

    Costs what :class:`~mtlbench.methods.sharpness._ball.PointWrapper` says, and a vector of the
    parameters' size; K of them with points of their own.

    Args:
        sigma: how much of the running mean is taken away.
        lam: :math:`\lambda`, memory of the running mean.
        common: points, rho, blocks and adaptive, see
            :class:`~mtlbench.methods.sharpness._ball.PointWrapper`.
    """

    info = SharpnessInfo(name="fsam", title="F-SAM", year=2024, arxiv="2403.12350")
    momentum: Tensor

    def __init__(
        self, *, sigma: float = 1.0, lam: Annotated[float, Ge(0), Lt(1)] = 0.9, **common: Any
    ) -> None:
        super().__init__(**common)
        self.sigma, self.lam = sigma, lam
        self.register_buffer("momentum", torch.zeros(0))
        self._before = self._proposed = self.momentum

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        n_rows = len(problem.model.heads) if self.per_task else 1
        self._before = self.momentum
        if not self._before.numel():
            self._before = problem.flat.data.new_zeros(n_rows, problem.flat.data.numel())
        self._proposed = self._before.clone()
        return super().update(problem, *aggregate)

    def moves(self, problem: StepProblem, blocks: Sequence[Block], k: int = 0) -> list[Move]:
        row = list(problem.model.heads).index(problem.objectives[k]) if self.per_task else 0
        friendly = []
        for segment, g in blocks:
            mean = self._before[row, segment].lerp(g, 1 - self.lam)
            self._proposed[row, segment] = mean
            friendly.append((segment, g - self.sigma * mean))
        return super().moves(problem, friendly, k)

    def after_step(self) -> None:
        self.momentum = self._proposed
