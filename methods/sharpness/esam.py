"""ESAM: SAM that perturbs some of the parameters at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le

from mtlbench.interfaces import Move, SharpnessInfo, StepProblem
from mtlbench.methods.sharpness._ball import Block, PointWrapper


class ESAM(PointWrapper):
    r"""The stochastic weight perturbation of `"Efficient Sharpness-aware Minimization for Improved
    Training of Neural Networks" <https://arxiv.org/abs/2110.03141>`_ on the mean loss of the tasks,
    or on each task's own.

    .. math:: \epsilon = \frac{\rho}{\beta} \, b \odot \frac{g}{\lVert g \rVert}, \quad
        b_i \sim \text{Bernoulli}(\beta), \qquad J_k = \nabla L_k(\theta + \epsilon)

    so that its expectation is SAM's. Its length is :math:`\rho / \sqrt\beta` on average in the
    square.

    The paper's other half, the gradient of those examples alone whose loss rises most
    (sharpness-sensitive data selection), is *not* done: a step has one batch, whose losses are
    means.

    Known from the abstract, a second-hand account of the algorithm and copies of the released code,
    not from the paper's text. The released code draws whole tensors, not parameters, takes the norm
    over what is drawn, and saves the first backward pass the gradients of the others; here all are
    computed, so that nothing is saved.

    Ours: ``points="per-task"``, with a draw of its own for each task.

    Costs what :class:`~mtlbench.methods.sharpness._ball.PointWrapper` says.

    Args:
        beta: share of the parameters that is perturbed.
        common: points, rho, blocks and adaptive, see
            :class:`~mtlbench.methods.sharpness._ball.PointWrapper`.
    """

    info = SharpnessInfo(name="esam", title="ESAM", year=2022, arxiv="2110.03141")

    def __init__(self, *, beta: Annotated[float, Gt(0), Le(1)] = 0.5, **common: Any) -> None:
        super().__init__(**common)
        self.beta = beta

    def moves(self, problem: StepProblem, blocks: Sequence[Block], k: int = 0) -> list[Move]:
        def drawn(segment: slice, direction: torch.Tensor) -> torch.Tensor:
            chosen = torch.empty_like(direction)
            return chosen.bernoulli_(self.beta, generator=problem.generator).mul_(direction)

        return [
            (segment, drawn(segment, direction), length / self.beta)
            for segment, direction, length in super().moves(problem, blocks, k)
        ]
