"""UW: losses weighted by learnt homoscedastic uncertainty."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.methods._adam import TaskAdam


class UW(WeightingMethod):
    r"""Uncertainty weighting from `"Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics" <https://arxiv.org/abs/1705.07115>`_.

    .. math:: \min_{\theta, s} \sum_k \tfrac12 \left( e^{-s_k} L_k(\theta) + s_k \right),
        \qquad w_k = \tfrac12 e^{-s_k}

    Departs from the authors' code: s has an Adam optimizer of its own, so that it does not depend
    on the network's.

    Args:
        n_tasks: K.
        lr: learning rate of s.
    """

    info = MethodInfo(
        name="uw",
        title="UW",
        year=2018,
        arxiv="1705.07115",
        head_policy="weighted",
        claims=("permutation", "scaling", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, lr: PositiveFloat = 1e-3) -> None:
        super().__init__(n_tasks)
        self.log_variance = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.log_variance], lr)
        self._losses: Tensor | None = None

    def weights(self, view: GradientView) -> Tensor:
        self._losses = view.losses
        return 0.5 * torch.exp(-self.log_variance.detach()).to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._losses is None:
            return
        s = self.log_variance.detach()
        self.log_variance.grad = 0.5 * (1 - torch.exp(-s) * self._losses.to(s))
        self.optimizer.step()
        self._losses = None
