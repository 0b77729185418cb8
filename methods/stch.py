"""STCH: a smooth maximum of the logarithms of the losses."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod

EPS = 1e-8


class STCH(WeightingMethod):
    r"""Smooth Tchebycheff scalarisation from `"Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization" <https://arxiv.org/abs/2402.19078>`_.

    .. math:: \min_\theta \mu \log \sum_k \exp \frac{f_k(\theta)}{\mu}

    As in the authors' code for multi-task learning, :math:`f_k = \log (L_k / n_k)` with a reference
    point n, all preferences are equal, and the objective is multiplied by K:

    .. math:: w_k = \frac{K}{L_k} \operatorname{softmax} \left( \frac{f}{\mu} \right)_k

    The first ``warmup + 1`` epochs minimise :math:`\sum_k \log L_k`, w = 1 / L; n is the mean
    training loss of the last of them. A task without a label until then goes on with w = 1 / L, and
    K counts the others, to the end of its first epoch.

    Departs from the authors' code: a loss below 1e-8 counts as 1e-8.

    Args:
        n_tasks: K.
        mu: smoothness; towards 0, the worst task alone counts.
        warmup: number of the epoch, from 0, whose mean losses become the reference point.
    """

    info = MethodInfo(
        name="stch",
        title="STCH",
        year=2024,
        arxiv="2402.19078",
        head_policy="weighted",
        claims=("permutation", "scaling", "stationarity"),
    )
    nadir: Tensor

    def __init__(
        self, n_tasks: int, *, mu: PositiveFloat = 1.0, warmup: NonNegativeInt = 4
    ) -> None:
        super().__init__(n_tasks)
        self.mu, self.warmup = mu, warmup
        self.register_buffer("nadir", torch.zeros(n_tasks))  # 0 until it is known

    def weights(self, view: GradientView) -> Tensor:
        losses, nadir = view.losses.clamp_min(EPS), self.nadir.to(view.losses)
        known = nadir > 0
        f = torch.where(known, (losses / nadir).log(), -torch.inf)
        return torch.where(known, known.sum() * (f / self.mu).softmax(0), 1.0) / losses

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        if epoch >= self.warmup:
            found = mean_losses.clamp_min(EPS).nan_to_num(0).to(self.nadir)
            self.nadir.copy_(torch.where(self.nadir > 0, self.nadir, found))
