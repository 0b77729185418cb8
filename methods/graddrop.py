"""GradDrop: each coordinate keeps the gradients of one sign, drawn by its purity."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.methods._columns import column_blocks


class GradDrop(WeightingMethod):
    r"""`"Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout"
    <https://arxiv.org/abs/2010.06808>`_.

    For each coordinate, with u uniform on [0, 1) and shared by the tasks,

    .. math:: \mathcal{P} = \tfrac12 \left( 1 + \frac{\sum_k g_k}{\sum_k |g_k|} \right), \qquad
        d = \sum_k \left( \ell + (1 - \ell) \, [\, g_k > 0 \wedge \mathcal{P} > u \,\vee\,
        g_k < 0 \wedge \mathcal{P} < u \,] \right) g_k

    Departs from the paper: the signs are judged on the gradients of the shared parameters, as
    TorchJD does, not on those of activations, as LibMTL does at the trunk's output.

    Args:
        n_tasks: K.
        leak: :math:`\ell`, the share of every gradient that is kept in any case.
    """

    info = MethodInfo(
        name="graddrop",
        title="GradDrop",
        year=2020,
        arxiv="2010.06808",
        head_policy="unit",
        scale="sum",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, leak: Annotated[float, Ge(0), Le(1)] = 0.0) -> None:
        super().__init__(n_tasks)
        self.leak = leak

    def aggregate(self, view: GradientView) -> Update:
        J = view.jacobian()
        u = torch.rand(J.shape[1], dtype=J.dtype, device=J.device, generator=view.generator)
        for columns in column_blocks(J):
            u[columns] = self._dropped(J[:, columns], u[columns])
        return Update(u, view.head_grads())

    def _dropped(self, J: Tensor, u: Tensor) -> Tensor:
        total = J.abs().sum(0)
        purity = 0.5 * (1 + J.sum(0) / total.where(total > 0, 1.0))
        positive, negative = (purity > u).to(J), (purity < u).to(J)
        kept = J.clamp_min(0).sum(0) * positive + J.clamp_max(0).sum(0) * negative
        return self.leak * J.sum(0) + (1 - self.leak) * kept
