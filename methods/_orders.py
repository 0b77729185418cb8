"""What the methods that let gradients meet one another in random orders share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlbench.engine.gramian import GramianMethod
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

    def weights(self, view: GradientView) -> Tensor:
        K, source = self.n_tasks, view.generator
        draws = torch.rand(K, K, generator=source, device=source.device)
        self._orders = draws.argsort(dim=1).cpu().numpy()
        return super().weights(view)
