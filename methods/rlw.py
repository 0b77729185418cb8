"""RLW: random loss weights, drawn anew in every step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod


class RLW(WeightingMethod):
    r"""Random loss weighting from `"Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning" <https://arxiv.org/abs/2111.10603>`_.

    .. math:: w = \operatorname{softmax}(z), \; z \sim \mathcal{N}(0, I)
        \qquad \text{or} \qquad w \sim \operatorname{Dirichlet}(1, \dots, 1)

    Departs from the authors' code (LibMTL): a Dirichlet draw lies on the simplex already and is not
    put through the softmax. Where a wrapper aggregates several times a step, each time has a draw
    of its own.

    Args:
        n_tasks: K.
        distribution: where the weights are drawn from.
    """

    info = MethodInfo(
        name="rlw",
        title="RLW",
        year=2021,
        arxiv="2111.10603",
        head_policy="weighted",
        scale="mean",
        claims=("scaling", "identical", "simplex", "stationarity"),
    )

    def __init__(
        self, n_tasks: int, *, distribution: Literal["normal", "dirichlet"] = "normal"
    ) -> None:
        super().__init__(n_tasks)
        self.distribution = distribution

    def weights(self, view: GradientView) -> Tensor:
        draw = torch.empty_like(view.losses)
        if self.distribution == "normal":
            return draw.normal_(generator=view.generator).softmax(0)
        draw.exponential_(generator=view.generator)  # normalised, these are Dirichlet(1, ..., 1)
        return draw / draw.sum()
