"""LS: linear scalarisation with equal weights, the baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod


class LS(WeightingMethod):
    r"""The sum of the losses, also called equal weighting (EW).

    .. math:: w = (1, \dots, 1)
    """

    info = MethodInfo(
        name="ls",
        title="LS",
        year=1997,
        head_policy="weighted",
        scale="sum",
        role="baseline",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def weights(self, view: GradientView) -> Tensor:
        return torch.ones_like(view.losses)
