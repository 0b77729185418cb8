"""Random: the gradients of the shared parameters with random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod


class Random(WeightingMethod):
    r"""Random gradient weighting (RGW) from `"Reasonable Effectiveness of Random Weighting: A
    Litmus Test for Multi-Task Learning" <https://arxiv.org/abs/2111.10603>`_.

    .. math:: w = \operatorname{softmax}(z), \quad z \sim \mathcal{N}(0, I)

    It differs from RLW in that the heads are left alone.

    Departs from the authors' code (LibMTL): none known.

    Args:
        n_tasks: K.
    """

    info = MethodInfo(
        name="random",
        title="Random",
        year=2021,
        arxiv="2111.10603",
        head_policy="unit",
        scale="mean",
        claims=("scaling", "identical", "simplex", "stationarity"),
        version=2,
    )

    def weights(self, view: GradientView) -> Tensor:
        draw = torch.empty_like(view.losses)
        return draw.normal_(generator=view.generator).softmax(0)
