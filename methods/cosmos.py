"""COSMOS: a weighted sum of the losses, and a reward for their direction."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.interfaces.gradients import in_double
from mtlbench.methods._preference import Preference, preference_vector

EPS = 1e-8


class COSMOS(WeightingMethod):
    r"""The objective of `"Scalable Pareto Front Approximation for Deep Multi-Objective Learning"
    <https://arxiv.org/abs/2103.13392>`_ for one preference.

    With the losses as a vector L and the preference scaled to :math:`\sum_k r_k = 1`,

    .. math:: \min_\theta \; r^\top L - \lambda \cos(r, L), \qquad
        w = r - \frac{\lambda}{\lVert r \rVert \, \lVert L \rVert}
        \Big( r - \frac{r^\top L}{\lVert L \rVert^2} L \Big)

    Weights may be negative: a loss that is small for its preference may grow.

    Departs from the paper, as TorchJD does: there a preference is drawn for each batch and the
    network sees it as an input; here it is one preference, and the network does not. Nor are the
    losses scaled first. Losses with a norm below 1e-8 count as if it were 1e-8.

    Args:
        n_tasks: K.
        lam: :math:`\lambda`; the paper's are 0.01 to 8, from data set to data set.
        preference: see :data:`~mtlbench.methods._preference.Preference`.
    """

    info = MethodInfo(
        name="cosmos",
        title="COSMOS",
        year=2021,
        arxiv="2103.13392",
        head_policy="weighted",
        scale="mean",
        claims=("permutation", "scaling", "identical"),
    )
    preference: Tensor

    def __init__(
        self, n_tasks: int, *, lam: NonNegativeFloat = 1.0, preference: Preference = "uniform"
    ) -> None:
        super().__init__(n_tasks)
        self.lam = lam
        vector = preference_vector(preference, n_tasks)
        self.register_buffer("preference", vector, persistent=False)

    def weights(self, view: GradientView) -> Tensor:
        losses = in_double(view.losses)
        r = self.preference.to(losses) / self.preference.to(losses).sum()
        size = losses.norm().clamp_min(EPS)
        slope: Tensor = (r - (r @ losses) * losses / size**2) / (r.norm() * size)
        return (r - self.lam * slope).to(view.losses)
