"""DWA: dynamic weight average, more weight to the losses that fall slowest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, Later, MethodInfo, WeightingMethod

EPS = 1e-8


class DWA(WeightingMethod):
    r"""Dynamic weight average from `"End-to-End Multi-Task Learning with Attention"
    <https://arxiv.org/abs/1803.10704>`_.

    With :math:`\bar L_k(t)` the mean training loss of epoch t,

    .. math:: w(t) = K \operatorname{softmax}(r / T), \qquad
        r_k = \frac{\bar L_k(t - 1)}{\bar L_k(t - 2)}

    and :math:`r_k = 1` until a task has had labels in two epochs, the last two of which count.

    Departs from the authors' code: none known. The trainers of Nash-MTL and its successors compare
    the mean losses of the last 25 steps with those of the 25 before, at every step:
    ``window=25``. As there, weights are even in the first 26 steps, and losses from before the
    first count as 1.

    Args:
        n_tasks: K.
        temperature: T; the larger, the more even the weights.
        window: how many steps are averaged instead of an epoch; 0 for epochs.
    """

    info = MethodInfo(
        name="dwa",
        title="DWA",
        year=2019,
        arxiv="1803.10704",
        head_policy="weighted",
        scale="sum",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )
    current: Tensor
    last: Tensor
    begun: Tensor
    ratios: Tensor
    costs: Tensor
    steps: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        temperature: PositiveFloat = 2.0,
        window: Annotated[NonNegativeInt, Later()] = 0,
    ) -> None:
        super().__init__(n_tasks)
        self.temperature, self.window = temperature, window
        self.register_buffer("current", torch.ones(n_tasks))
        self.register_buffer("last", torch.zeros(n_tasks))
        self.register_buffer("begun", torch.zeros(n_tasks, dtype=torch.bool))
        self.register_buffer("ratios", torch.ones(n_tasks))

        kept = window > 0
        self.register_buffer("costs", torch.ones(n_tasks, 2 * window), persistent=kept)
        steps = torch.zeros(n_tasks, dtype=torch.int64)
        self.register_buffer("steps", steps, persistent=kept)
        self._costs: Tensor | None = None

    def weights(self, view: GradientView) -> Tensor:
        if not self.window:
            return self.current.to(view.losses, copy=True)
        latest = view.losses.to(self.costs).unsqueeze(1)
        self._costs = torch.cat([self.costs[:, 1:], latest], 1)
        before, now = (part.mean(1) for part in self._costs.split(self.window, 1))
        ratios = torch.where(self.steps > self.window, now / before.clamp_min(EPS), 1.0)
        return self.n_tasks * (ratios / self.temperature).softmax(0).to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._costs is not None:
            self.costs.copy_(self._costs)
            self.steps += 1
            self._costs = None

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        mean = mean_losses.to(self.last)
        there = ~mean.isnan()
        found = mean / self.last.clamp_min(EPS)
        self.ratios.copy_(torch.where(there & self.begun, found, self.ratios))
        self.current.copy_(self.n_tasks * (self.ratios / self.temperature).softmax(0))
        self.last.copy_(torch.where(there, mean, self.last))
        self.begun |= there
