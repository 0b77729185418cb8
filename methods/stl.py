"""STL: each task trained alone, the reference that delta-m is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod


class STL(WeightingMethod):
    """Single-task learning: one network a task, so there is one loss and nothing to weight."""

    info = MethodInfo(
        name="stl",
        title="STL",
        year=1997,
        head_policy="weighted",
        scale="sum",
        role="reference",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def weights(self, view: GradientView) -> Tensor:
        return torch.ones_like(view.losses)
