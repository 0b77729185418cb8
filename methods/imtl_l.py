"""IMTL-L: losses brought to one scale by learnt factors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.methods._adam import TaskAdam


class IMTLL(WeightingMethod):
    r"""The loss balance of `"Towards Impartial Multi-task Learning"
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_.

    .. math:: \min_{\theta, s} \sum_k \left( e^{s_k} L_k(\theta) - s_k \right), \qquad
        w_k = e^{s_k}

    At the optimum of s every weighted loss is 1.

    Departs from the paper: s has an Adam optimizer of its own, so that it does not depend on the
    network's.

    Args:
        n_tasks: K.
        lr: learning rate of s.
    """

    info = MethodInfo(
        name="imtl_l",
        title="IMTL-L",
        year=2021,
        head_policy="weighted",
        claims=("permutation", "scaling", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, lr: PositiveFloat = 1e-3) -> None:
        super().__init__(n_tasks)
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.log_scale], lr)
        self._losses: Tensor | None = None

    def weights(self, view: GradientView) -> Tensor:
        self._losses = view.losses
        return torch.exp(self.log_scale.detach()).to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._losses is None:
            return
        s = self.log_scale.detach()
        self.log_scale.grad = torch.exp(s) * self._losses.to(s) - 1
        self.optimizer.step()
        self._losses = None
