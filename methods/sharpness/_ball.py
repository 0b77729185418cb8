"""What the wrappers share: perturbations of a given length, and the mean gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.interfaces import (
    GradientView,
    Move,
    Parameters,
    Passes,
    SharpnessWrapper,
    StepProblem,
    Update,
)

Block = tuple[slice, Tensor]
"""A segment of the parameters and a direction in it."""


@dataclass(frozen=True)
class Ball:
    r"""Perturbations of length :math:`\rho` along a direction d.

    With ``adaptive`` the length is measured relative to the parameters, as in `"ASAM: Adaptive
    Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks"
    <https://arxiv.org/abs/2102.11600>`_:

    .. math:: \epsilon = \rho \, \frac{d}{\lVert d \rVert} \quad \text{or} \quad
        \epsilon = \rho \, \frac{\theta^2 d}{\lVert \, |\theta| \, d \, \rVert}
    """

    rho: float
    adaptive: bool = False

    def moves(self, flat: Parameters, *blocks: Block, apart: bool = False) -> list[Move]:
        """One perturbation over all blocks together; a direction of zero moves nothing.

        Args:
            flat: at the point that is perturbed.
            blocks: what moves whereto.
            apart: a perturbation of length rho for each block instead.
        """
        if apart:
            return [move for block in blocks for move in self.moves(flat, block)]
        if self.adaptive:
            return self._adaptive_moves(flat, blocks)
        factor = length(torch.stack([d.norm() for _, d in blocks]), self.rho)
        return [(segment, d, factor) for segment, d in blocks]

    def _adaptive_moves(self, flat: Parameters, blocks: tuple[Block, ...]) -> list[Move]:
        scaled = [(segment, flat.data[segment].abs().mul_(d)) for segment, d in blocks]
        factor = length(torch.stack([d.norm() for _, d in scaled]), self.rho)
        return [(segment, d.mul_(flat.data[segment].abs()), factor) for segment, d in scaled]


class BallWrapper(SharpnessWrapper):
    """A wrapper that moves trunk and heads by a given length.

    Args:
        rho: length of the perturbations.
        blocks: "joint" perturbs trunk and heads by one vector of length rho; "separate" gives the
            trunk and each head a perturbation of length rho of its own.
        adaptive: lengths relative to the parameters, see :class:`Ball`.
    """

    def __init__(
        self,
        *,
        rho: PositiveFloat = 0.05,
        blocks: Literal["joint", "separate"] = "joint",
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        self.ball, self.apart = Ball(rho, adaptive), blocks == "separate"


class PointWrapper(BallWrapper):
    """A wrapper that takes all gradients at one point, which their mean gradient leads to, or each
    task's at a point of its own, which its own gradient leads to.

    Costs one forward and one backward pass more than the method alone; K forward and 2 K backward
    passes with points of their own.

    Args:
        points: "common" or "per-task".
        common: rho, blocks and adaptive, as :class:`BallWrapper` has them.
    """

    def __init__(self, *, points: Literal["common", "per-task"] = "common", **common: Any) -> None:
        super().__init__(**common)
        self.per_task = points == "per-task"
        self.common_point = not self.per_task

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        if self.per_task:
            return Passes(method.forward + n_tasks, 2 * n_tasks)
        return Passes(method.forward + 1, method.backward + 1, method.head_backward)

    def moves(self, problem: StepProblem, blocks: Sequence[Block], k: int = 0) -> list[Move]:
        """From the parameters to the point.

        Args:
            problem: at the parameters.
            blocks: the gradient that leads there.
            k: whose point it is; 0 if it is that of all.
        """
        return self.ball.moves(problem.flat, *blocks, apart=self.apart)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view(keep=self.per_task)
        if not self.per_task:
            blocks = blocks_of(flat, mean_gradient(here))
            with flat.shifted(*self.moves(problem, blocks)):
                return aggregate[0](problem.view(losses=here.losses))

        def move(k: int) -> list[Move]:
            own, head = here.row(k)
            return self.moves(problem, [(flat.shared, own), (flat.heads[k], head)], k)

        return aggregate[0](problem.view_at(here.losses, move))


def blocks_of(flat: Parameters, update: Update) -> list[Block]:
    """Trunk and heads with their part of ``update``."""
    return list(zip([flat.shared, *flat.heads], [update.shared, *update.heads], strict=True))


def length(direction: Tensor, rho: float) -> Tensor:
    r"""The factor :math:`\rho / \lVert d \rVert` that brings ``direction`` to length ``rho``; 0 if
    it is zero."""
    norm = direction.norm()
    return torch.where(norm > 0, rho / norm, 0.0)


def mean_gradient(view: GradientView) -> Update:
    """Gradient of the mean loss, by one backward pass."""
    return view.combine(torch.full_like(view.losses, 1 / view.n_tasks))
