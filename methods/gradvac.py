"""GradVac: gradients pulled together until their cosines reach what was usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from mtlbench.engine.gramian import Array
from mtlbench.interfaces import MethodInfo
from mtlbench.methods._orders import InRandomOrders


class GradVac(InRandomOrders):
    r"""Gradient vaccine from `"Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models" <https://arxiv.org/abs/2010.05874>`_.

    For each task i, starting from :math:`g_i' = g_i`, and for the other tasks j in a random order
    of its own, with the cosine :math:`\phi` of :math:`g_i'` and :math:`g_j` and its moving average
    :math:`\hat\phi_{ij}`, 0 at first: if :math:`\phi < \hat\phi_{ij}`,

    .. math:: g_i' \leftarrow g_i' + \frac{\lVert g_i' \rVert \left( \hat\phi_{ij} \sqrt{1 - \phi^2}
        - \phi \sqrt{1 - \hat\phi_{ij}^2} \right)}{\lVert g_j \rVert \sqrt{1 - \hat\phi_{ij}^2}} g_j

    and then :math:`\hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi`, in any case.
    The update is :math:`d = \sum_i g_i'`. A pair with a zero row is left alone, and so is one whose
    :math:`g_i'` is zero up to rounding: after g has met -g, what is left of it has no direction.

    Departs from the paper: the shared parameters are one component, where it also treats layers or
    matrices apart.

    Args:
        n_tasks: K.
        beta: how fast the averages follow the cosines.
        common: see :class:`~mtlbench.engine.gramian.GramianMethod`; the averages move with the
            solves.
    """

    info = MethodInfo(
        name="gradvac",
        title="GradVac",
        year=2020,
        arxiv="2010.05874",
        head_policy="unit",
        scale="sum",
        backwards="per-task",
        claims=("scaling", "identical", "stationarity"),
        version=2,
        discontinuous="where a gradient has been cancelled: its cosines are 0/0",
    )
    pairs = ("targets",)
    on_host = (*InRandomOrders.on_host, "targets")
    targets: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Gt(0), Le(1)] = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(n_tasks, **common)
        self.beta = beta
        self.register_buffer("targets", torch.zeros(n_tasks, n_tasks, dtype=torch.float64))
        self._moved: Array | None = None

    def solve(self, gramian: Array, losses: Array) -> Array:
        norms, tasks = np.sqrt(np.diag(gramian)), np.arange(self.n_tasks)
        w = np.eye(self.n_tasks)  # row i: the coefficients of g_i'
        targets = self.targets.numpy().copy()
        rounding = (
            2 * self.n_tasks * self.resolution
        ) ** 0.5  # of a length, as G has that of squares
        for order in self._orders.T:
            sizes = np.sqrt(np.maximum(((w @ gramian) * w).sum(axis=1), 0))
            sizes[sizes <= rounding * (np.abs(w) @ norms)] = 0
            i = tasks[(order != tasks) & (sizes * norms[order] > 0)]
            j = order[i]  # whom g_i' meets next
            phi = ((w[i] * gramian[j]).sum(axis=1) / (sizes[i] * norms[j])).clip(-1, 1)
            target = targets[i, j]
            # An average reaches 1 by rounding only, and the pull to it would be infinite.
            across = np.sqrt(np.maximum(1 - target**2, np.finfo(np.float64).eps))
            pull = sizes[i] * (target * np.sqrt(1 - phi**2) / across - phi) / norms[j]
            w[i, j] += np.where(phi < target, pull, 0)
            targets[i, j] += self.beta * (phi - target)
        self._moved = targets
        return np.asarray(w.sum(axis=0))

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        super().after_step(evaluate)
        if self._moved is not None:
            self.targets.copy_(torch.from_numpy(self._moved))
            self._moved = None
