"""PBI: progress along a preferred direction, and a penalty for the distance to it."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.interfaces.gradients import in_double
from mtlbench.methods._preference import Preference, preference_vector

EPS = 1e-12


class PBI(WeightingMethod):
    r"""Penalty-based boundary intersection from `"MOEA/D: A Multiobjective Evolutionary Algorithm
    Based on Decomposition" <https://doi.org/10.1109/TEVC.2007.892759>`_, as TorchJD has it.

    With the losses as a vector L and the preference scaled to :math:`\lVert r \rVert = 1`,

    .. math:: \min_\theta \; d_1 + \vartheta d_2, \quad d_1 = r^\top L, \quad
        d_2 = \sqrt{\lVert L - d_1 r \rVert^2 + 10^{-12}}, \qquad
        w = r + \vartheta \, \frac{L - d_1 r}{d_2}

    so that losses are asked to be in proportion to r. Weights may be negative: such a loss is to
    grow until it is. The reference point is 0, a lower bound of the losses.

    Departs from the paper, whose evolutionary search needs no gradient: the :math:`10^{-12}`, from
    TorchJD, gives :math:`d_2` one where it is 0.

    Args:
        n_tasks: K.
        theta: :math:`\vartheta`.
        preference: see :data:`~mtlbench.methods._preference.Preference`.
    """

    info = MethodInfo(
        name="pbi",
        title="PBI",
        year=2007,
        head_policy="weighted",
        claims=("permutation", "scaling"),
    )
    preference: Tensor

    def __init__(
        self, n_tasks: int, *, theta: NonNegativeFloat = 5.0, preference: Preference = "uniform"
    ) -> None:
        super().__init__(n_tasks)
        self.theta = theta
        vector = preference_vector(preference, n_tasks)
        self.register_buffer("preference", vector, persistent=False)

    def weights(self, view: GradientView) -> Tensor:
        losses = in_double(view.losses)
        r = self.preference.to(losses) / self.preference.to(losses).norm()
        across = losses - (losses @ r) * r
        w: Tensor = r + self.theta * across / (across @ across + EPS).sqrt()
        return w.to(view.losses)
