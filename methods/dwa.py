"""DWA: dynamic weight average, more weight to the losses that fall slowest."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod

EPS = 1e-8


class DWA(WeightingMethod):
    r"""Dynamic weight average from `"End-to-End Multi-Task Learning with Attention"
    <https://arxiv.org/abs/1803.10704>`_.

    With :math:`\bar L_k(t)` the mean training loss of epoch t,

    .. math:: w(t) = K \operatorname{softmax}(r / T), \qquad
        r_k = \frac{\bar L_k(t - 1)}{\bar L_k(t - 2)}

    and :math:`r_k = 1` until a task has had labels in two epochs, the last two of which count.

    Departs from the authors' code: none known.

    Args:
        n_tasks: K.
        temperature: T; the larger, the more even the weights.
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

    def __init__(self, n_tasks: int, *, temperature: PositiveFloat = 2.0) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature
        self.register_buffer("current", torch.ones(n_tasks))
        self.register_buffer("last", torch.zeros(n_tasks))
        self.register_buffer("begun", torch.zeros(n_tasks, dtype=torch.bool))
        self.register_buffer("ratios", torch.ones(n_tasks))

    def weights(self, view: GradientView) -> Tensor:
        return self.current.to(view.losses, copy=True)

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        mean = mean_losses.to(self.last)
        there = ~mean.isnan()
        found = mean / self.last.clamp_min(EPS)
        self.ratios.copy_(torch.where(there & self.begun, found, self.ratios))
        self.current.copy_(self.n_tasks * (self.ratios / self.temperature).softmax(0))
        self.last.copy_(torch.where(there, mean, self.last))
        self.begun |= there
