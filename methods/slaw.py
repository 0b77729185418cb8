"""SLAW: weights inverse to how much each loss varies, in place of its gradient's norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.interfaces.gradients import in_double

EPS = 1e-5


class SLAW(WeightingMethod):
    r"""`"SLAW: Scaled Loss Approximate Weighting for Efficient Multi-Task Learning"
    <https://arxiv.org/abs/2109.08218>`_.

    With moving averages of the losses and of their squares, the loss at hand included,

    .. math:: s_k = \sqrt{\overline{L_k^2} - \overline{L_k}^2}, \qquad
        w_k = \frac{K / s_k}{\sum_j 1 / s_j}

    As in the authors' code the averages are plain means until those are over :math:`1 / (1 -
    \beta)` steps, w = 1 in the first step, and a deviation below 1e-5 counts as 1e-5.

    Where all tasks have labels it departs from the authors' code in nothing known. With labels
    missing, ours: the averages of a task move on the steps on which it has one, w = 1 in the first
    of these, and K counts the others. Losses that fall vary the more the longer they are watched,
    so that a task with fewer steps would weigh the more. Hence :math:`s_k` is taken relative to
    the deviation of the step number, averaged in the same way over the same steps; it cancels
    where these are the same for all.

    Args:
        n_tasks: K.
        beta: :math:`\beta`, how much of the averages is kept.
    """

    info = MethodInfo(
        name="slaw",
        title="SLAW",
        year=2021,
        arxiv="2109.08218",
        head_policy="weighted",
        scale="sum",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )
    means: Tensor
    variances: Tensor
    steps: Tensor
    now: Tensor

    def __init__(self, n_tasks: int, *, beta: Annotated[float, Ge(0), Lt(1)] = 0.99) -> None:
        super().__init__(n_tasks)
        self.beta = beta
        # Of the losses, and of the numbers of the steps on which these were seen.
        self.register_buffer("means", torch.zeros(n_tasks, 2, dtype=torch.float64))
        self.register_buffer("variances", torch.zeros(n_tasks, 2, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("now", torch.zeros((), dtype=torch.float64))
        self._proposed: tuple[Tensor, Tensor] | None = None

    def weights(self, view: GradientView) -> Tensor:
        seen = torch.stack([in_double(view.losses), self.now.expand(self.n_tasks)], 1)
        rate = (1 / (self.steps + 1)).clamp_min(1 - self.beta)[:, None]
        change = seen - self.means
        self._proposed = (
            self.means + rate * change,
            (1 - rate) * (self.variances + rate * change.square()),
        )
        deviation, spread = self._proposed[1].sqrt().unbind(1)
        known = self.steps > 0
        inverse = torch.where(known, spread / deviation.clamp_min(EPS), 0.0)
        w = torch.where(known, known.sum() * inverse / inverse.sum(), 1.0)
        return w.to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.means, self.variances = self._proposed
            self.steps += 1
            self._proposed = None
        self.now += 1
