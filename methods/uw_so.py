"""UW-SO: the softmax of the inverse losses, what uncertainty weighting comes to at its optimum."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod

EPS = 1e-8


class UWSO(WeightingMethod):
    r"""Soft optimal uncertainty weighting from `"Analytical Uncertainty-Based Loss Weighting in
    Multi-Task Learning" <https://arxiv.org/abs/2408.07985>`_.

    The uncertainties of UW that are optimal for the losses at hand give weights in proportion to
    1 / L; they are softened by a softmax with a temperature,

    .. math:: w = \operatorname{softmax} \left( \frac{1}{T L} \right)

    The losses count as constants. T is to be tuned to the sizes of the losses: towards infinity all
    tasks weigh the same, towards 0 the smallest loss alone counts.

    The definition is the paper's; no code of the authors' was compared with. A loss below 1e-8
    counts as 1e-8.

    Args:
        n_tasks: K.
        temperature: T.
    """

    info = MethodInfo(
        name="uw_so",
        title="UW-SO",
        year=2024,
        arxiv="2408.07985",
        head_policy="weighted",
        scale="mean",
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
    )

    def __init__(self, n_tasks: int, *, temperature: PositiveFloat = 1.0) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature

    def weights(self, view: GradientView) -> Tensor:
        return torch.softmax(1 / (self.temperature * view.losses.clamp_min(EPS)), 0)
