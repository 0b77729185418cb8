"""What the wrappers share: perturbations of a given length, and the mean gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, Move, Parameters, SharpnessWrapper, Update

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


def length(direction: Tensor, rho: float) -> Tensor:
    r"""The factor :math:`\rho / \lVert d \rVert` that brings ``direction`` to length ``rho``; 0 if
    it is zero."""
    norm = direction.norm()
    return torch.where(norm > 0, rho / norm, 0.0)


def mean_gradient(view: GradientView) -> Update:
    """Gradient of the mean loss, by one backward pass."""
    return view.combine(torch.full_like(view.losses, 1 / view.n_tasks))
