"""GLS: the geometric mean of the losses."""

from __future__ import annotations

from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod

EPS = 1e-8


class GLS(WeightingMethod):
    r"""Geometric loss strategy from `"MultiNet++: Multi-Stream Feature Aggregation and Geometric
    Loss Strategy for Multi-Task Learning" <https://arxiv.org/abs/1904.08492>`_.

    .. math:: \min_\theta \Big( \prod_k L_k(\theta) \Big)^{1/K}, \qquad
        w_k = \frac{\big( \prod_j L_j \big)^{1/K}}{K L_k}

    The mean is taken of the logarithms, so that a product of many losses neither overflows nor
    vanishes; a loss below 1e-8 counts as 1e-8.

    Departs from the authors' code: none is known to us.

    Args:
        n_tasks: K.
    """

    info = MethodInfo(
        name="gls",
        title="GLS",
        year=2019,
        arxiv="1904.08492",
        head_policy="weighted",
        scale="mean",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )

    def weights(self, view: GradientView) -> Tensor:
        logs = view.losses.clamp_min(EPS).log()
        return (logs.mean() - logs).exp() / self.n_tasks
