"""What the methods that let gradients meet one another in random orders share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.interfaces import GradientView


class InRandomOrders(GramianMethod):
    """Draws an order of the tasks for each task before it solves.

    Args:
        n_tasks: K.
        common: see :class:`GramianMethod`.
    """

    def __init__(self, n_tasks: int, **common: Any) -> None:
        super().__init__(n_tasks, **common)
        self._orders = np.tile(np.arange(n_tasks), (n_tasks, 1))
        """Row i: in which order task i meets the others, and itself."""

    def drawn(self, view: GradientView) -> Sequence[Tensor]:
        K, source = self.n_tasks, view.generator
        draws = torch.rand(K, K, generator=source, device=source.device)
        return [draws.argsort(dim=1)]

    def use(self, *draws: Array) -> None:
        self._orders = draws[0].astype(np.intp)
