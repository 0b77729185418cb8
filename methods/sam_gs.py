"""SAM-GS: gradients of one length where their lengths differ, led by their momentum elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.interfaces.gradients import in_double

FLOOR = 1e-8


class SAMGS(WeightingMethod):
    r"""Similarity-aware momentum gradient surgery, after `"Gradient Similarity Surgery in
    Multi-task Deep Learning" <https://arxiv.org/abs/2506.06130>`_.

    With the mean :math:`\bar\psi` of the similarities :math:`2 |g_i| |g_j| / (|g_i|^2 + |g_j|^2)`
    of lengths over all pairs, and :math:`\hat m, \hat v` the averages divided by :math:`1 -
    \beta^t`,

    .. math:: m_k \leftarrow \beta_1 m_k + (1 - \beta_1) g_k, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) (1 - \bar\psi)^2 + 10^{-8}, \\
        d = \frac1K \sum_j \lVert g_j \rVert \sum_k \frac{g_k}{\lVert g_k \rVert}
        \;\text{ if } \bar\psi < \gamma, \qquad
        d = \sum_k \frac{\lVert \hat m_k \rVert}{\sqrt{\hat v}} g_k \;\text{ else}

    Known from the abstract and the authors' code, not from the paper's text. Departs from the code:
    that multiplies :math:`g_k` by :math:`|\hat m_k|` entry by entry, so that even K times the same
    task would not go down its gradient; that is ``momentum="entries"``, and not what a method here
    has to do. d is not multiplied by K, which is the protocol's matter. Either way the second case
    is quadratic in the gradients, and its length has no scale in common with the first's.

    A row of zeros has no direction and stays zero. Where some tasks have no label, each has
    averages m and v and counts of its own; a task alone is plain descent, and its m follows.

    Args:
        n_tasks: K.
        gamma: :math:`\gamma`; 0.1 is the code's, its example's is 0.7.
        beta1: memory of m.
        beta2: memory of v.
        momentum: what of m leads, its "norm" or, as released, its "entries".
    """

    info = MethodInfo(
        name="sam_gs",
        title="SAM-GS",
        year=2025,
        arxiv="2506.06130",
        head_policy="unit",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "stationarity"),
        discontinuous="where the mean similarity of lengths is gamma: another rule takes over",
    )
    average: Tensor
    steps: Tensor
    spread: Tensor
    met: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        gamma: Annotated[float, Ge(0), Le(1)] = 0.1,
        beta1: Annotated[float, Ge(0), Lt(1)] = 0.9,
        beta2: Annotated[float, Ge(0), Lt(1)] = 0.99,
        momentum: Literal["norm", "entries"] = "norm",
    ) -> None:
        super().__init__(n_tasks)
        self.gamma, self.beta1, self.beta2, self.momentum = gamma, beta1, beta2, momentum
        self.register_buffer("average", torch.zeros(n_tasks, 0))  # (K, P) from the first step on
        self.register_buffer("spread", torch.zeros(n_tasks, dtype=torch.float64))
        # On how many steps a task took part, and on how many not alone.
        self.register_buffer("steps", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("met", torch.zeros(n_tasks, dtype=torch.float64))
        self._proposed: tuple[Tensor, Tensor, Tensor] | None = None

    def aggregate(self, view: GradientView) -> Update:
        J = view.jacobian()
        average = (1 - self.beta1) * J
        if self.average.numel():
            average += self.beta1 * self.average.to(J)
        if view.n_tasks == 1:
            self._proposed = average, self.spread, self.met
            return super().aggregate(view)
        norms, met = in_double(J).norm(dim=1), self.met + 1
        similar = mean_similarity(norms)
        spread = self.beta2 * self.spread + (1 - self.beta2) * (1 - similar) ** 2 + FLOOR
        self._proposed = average, spread, met
        size = (spread / (1 - self.beta2**met)).sqrt() * (1 - self.beta1 ** (self.steps + 1))
        alike = torch.where(norms > 0, norms.mean() / norms, 0.0)
        if self.momentum == "norm":
            w = torch.where(similar < self.gamma, alike, in_double(average).norm(dim=1) / size)
            return view.combine(w.to(J), "unit")
        led = (J * average.abs() / size.to(J)[:, None]).sum(0)
        shared = torch.where(similar < self.gamma, alike.to(J) @ J, led)
        return Update(shared, view.head_grads())

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.average, self.spread, self.met = self._proposed
            self.steps += 1
            self._proposed = None


def mean_similarity(norms: Tensor) -> Tensor:
    """Of the lengths of all pairs, (K,) to one number from 0 to 1; zeros are alike."""
    sizes = norms / norms.max().clamp_min(torch.finfo(norms.dtype).tiny)
    a, b = sizes[:, None], sizes
    squares = a**2 + b**2
    pairs = torch.where(squares > 0, 2 * a * b / squares, 1.0)
    return (pairs.sum() - pairs.diagonal().sum()) / (len(norms) * (len(norms) - 1))
