"""SI: the sum of the logarithms of the losses, which does not see their scales."""

from __future__ import annotations

from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod

EPS = 1e-8


class SI(WeightingMethod):
    r"""Scale-invariant linear scalarisation, a baseline of `"Multi-Task Learning as a Bargaining
    Game" <https://arxiv.org/abs/2202.01017>`_.

    .. math:: \min_\theta \sum_k \log L_k(\theta), \qquad w_k = 1 / L_k

    Departs from the authors' code: a loss below 1e-8 counts as 1e-8, so that the weights stay
    finite.

    Args:
        n_tasks: K.
    """

    info = MethodInfo(
        name="si",
        title="SI",
        year=2022,
        arxiv="2202.01017",
        head_policy="weighted",
        claims=("permutation", "scaling", "stationarity"),
    )

    def weights(self, view: GradientView) -> Tensor:
        return 1 / view.losses.clamp_min(EPS)
