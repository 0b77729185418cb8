"""LookSAM: SAM on every n-th step, and what it changed carried over to the steps between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from mtlbench.interfaces import GradientView, Parameters, Passes, SharpnessInfo, StepProblem, Update
from mtlbench.methods.sharpness._ball import BallWrapper, length, mean_gradient

Aggregate = Callable[[GradientView], Update]


class LookSAM(BallWrapper):
    r"""`"Towards Efficient and Scalable Sharpness-Aware Minimization"
    <https://arxiv.org/abs/2203.02714>`_ on the mean loss of the tasks.

    On every n-th step :class:`SAM`, which also leaves the part v of the mean gradient at the
    perturbed point, :math:`g_0^{SAM}`, that is orthogonal to :math:`g_0`, the one at the
    parameters; on the steps between, the method's update d at the parameters is bent by it:

    .. math:: v = g_0^{SAM} - \frac{g_0^\top g_0^{SAM}}{\lVert g_0 \rVert^2} g_0, \qquad
        d + \alpha \frac{\lVert d \rVert}{\lVert v \rVert} v

    on the trunk and on each head apart.

    Departs from the paper, which has one task: v comes from the mean gradient, and what it bends is
    the aggregate, so that a step between costs what the method costs.

    Args:
        every: n.
        alpha: how far the steps between are bent.
        common: rho, blocks and adaptive, as :class:`SAM` has them.
    """

    info = SharpnessInfo(name="looksam", title="LookSAM", year=2022, arxiv="2203.02714")
    on_host = ("steps",)
    steps: Tensor
    orthogonal: Tensor

    def __init__(
        self,
        *,
        every: PositiveInt = 5,
        alpha: NonNegativeFloat = 0.7,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.every, self.alpha = every, alpha
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("orthogonal", torch.zeros(0))
        self._proposed: Tensor | None = None

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        if int(self.steps) % self.every:
            return method
        means = 1 + (method.backward == 1)
        return Passes(method.forward + 1, method.backward + means, method.head_backward)

    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        if int(self.steps) % self.every:
            return self._bent(problem.flat, aggregate[0](problem.view()))
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        blocks = list(zip([flat.shared, *flat.heads], [mean.shared, *mean.heads], strict=True))
        with flat.shifted(*self.ball.moves(flat, *blocks, apart=self.apart)):
            there = problem.view(losses=here.losses, keep=True)
            update = aggregate[0](there)
            sharp = mean_gradient(there)
        self._proposed = torch.zeros_like(flat.data)
        for (segment, g), s in zip(blocks, [sharp.shared, *sharp.heads], strict=True):
            self._proposed[segment] = _orthogonal(g, s)
        return update

    def _bent(self, flat: Parameters, update: Update) -> Update:
        shared, *heads = (
            d + self.alpha * d.norm() * length(v, 1.0) * v
            for d, v in zip(
                [update.shared, *update.heads],
                [self.orthogonal[s] for s in (flat.shared, *flat.heads)],
                strict=True,
            )
        )
        return Update(shared, heads, update.weights)

    def after_step(self) -> None:
        self.steps += 1
        if self._proposed is not None:
            self.orthogonal, self._proposed = self._proposed, None


def _orthogonal(gradient: Tensor, other: Tensor) -> Tensor:
    """The part of ``other`` that is orthogonal to ``gradient``."""
    square = gradient @ gradient
    share = torch.where(square > 0, (gradient @ other) / square, 0.0)
    return other - share * gradient
