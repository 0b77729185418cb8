"""IMTL: losses brought to one scale, then equal projections on their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, MethodInfo, Update
from mtlbench.methods._adam import TaskAdam
from mtlbench.methods.imtl_g import IMTLG


class IMTL(IMTLG):
    r"""The whole of `"Towards Impartial Multi-task Learning"
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_: its loss balance, then its gradient balance.

    With the gradients :math:`e^{s_k} g_k` of the scaled losses :math:`e^{s_k} L_k - s_k`,

    .. math:: d = \sum_k v_k e^{s_k} g_k, \qquad u_1^\top d = \dots = u_K^\top d, \quad
        \sum_k v_k = 1, \qquad \min_s \sum_k \left( e^{s_k} L_k - s_k \right)

    where head k gets :math:`e^{s_k}` times its gradient. On the trunk it is
    :class:`~mtlbench.methods.imtl_g.IMTLG`'s direction, as that does not see the scale of the
    gradients, with another length: the weights are :math:`w_k = v_k e^{s_k}`.

    Departs from the paper in what :class:`~mtlbench.methods.imtl_g.IMTLG` and
    :class:`~mtlbench.methods.imtl_l.IMTLL` say, and as they do in what happens with a task alone.

    Args:
        n_tasks: K.
        lr: learning rate of s.
        common: heads, refresh and at, as :class:`~mtlbench.methods.imtl_g.IMTLG` has them.
    """

    info = MethodInfo(
        name="imtl",
        title="IMTL",
        year=2021,
        head_policy="unit",
        backwards="per-task",
        claims=("permutation", "scaling", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, lr: PositiveFloat = 1e-3, **common: Any) -> None:
        super().__init__(n_tasks, **common)
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.log_scale], lr)
        self._losses: Tensor | None = None

    def aggregate(self, view: GradientView) -> Update:
        update = super().aggregate(view)
        if view.n_tasks == 1 or self.info.head_policy == "weighted":
            return update
        scales = self.log_scale.detach().exp().to(view.losses)
        heads = [scale * own for scale, own in zip(scales, update.heads, strict=True)]
        return Update(update.shared, heads, update.weights)

    def weights(self, view: GradientView) -> Tensor:
        self._losses = view.losses
        w = super().weights(view)
        v = w * torch.exp(-self.log_scale.detach()).to(w)
        total = v.sum()
        return w / total.where(total.abs() > 1e-12 * v.abs().sum(), 1.0)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        super().after_step(evaluate)
        if self._losses is None:
            return
        s = self.log_scale.detach()
        self.log_scale.grad = torch.exp(s) * self._losses.to(s) - 1
        self.optimizer.step()
        self._losses = None
