"""GradNorm: weights learnt so that the tasks train at similar rates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, GramianPoint, MethodInfo, WeightingMethod

EPS, ADAM_EPS = 1e-8, 1e-20


class GradNorm(WeightingMethod):
    r"""`"GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks"
    <https://arxiv.org/abs/1711.02257>`_.

    With the losses :math:`L_k(0)` of the first step, :math:`\tilde L_k = L_k / L_k(0)` and
    :math:`r_k = \tilde L_k / \operatorname{mean}_j \tilde L_j`, w descends on

    .. math:: \sum_k \left| n_k - \bar n \, r_k^{\alpha} \right|, \qquad n_k = w_k \lVert g_k
        \rVert, \qquad \bar n = \operatorname{mean}_j n_j \; \text{(a constant)}

    after each step, and is scaled to sum to K again.

    Departs from the paper: the norms are those of all shared parameters, as in LibMTL, or with
    ``at="representation"`` those at the trunk's output, not those of the last shared layer; w has
    an Adam optimizer of its own, with an epsilon too small to see the scale of the gradients, and
    stays positive.

    Args:
        n_tasks: K.
        alpha: strength of the pull towards a common training rate.
        lr: learning rate of w.
        at: where the norms are taken, see :meth:`GradientView.gramian`.
    """

    info = MethodInfo(
        name="gradnorm",
        title="GradNorm",
        year=2018,
        arxiv="1711.02257",
        head_policy="weighted",
        scale="sum",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )
    initial: Tensor
    steps: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        alpha: NonNegativeFloat = 1.5,
        lr: PositiveFloat = 0.025,
        at: GramianPoint = "shared",
    ) -> None:
        super().__init__(n_tasks)
        self.alpha, self.at = alpha, at
        self.factors = nn.Parameter(torch.ones(n_tasks))
        self.optimizer = torch.optim.Adam([self.factors], lr=lr, eps=ADAM_EPS)
        self.register_buffer("initial", torch.zeros(n_tasks))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._seen: tuple[Tensor, Tensor] | None = None

    def weights(self, view: GradientView) -> Tensor:
        self._seen = view.losses, view.gramian(self.at).diagonal().sqrt()
        return self.factors.detach().to(view.losses, copy=True)

    @torch.no_grad()
    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._seen is None:
            return
        w = self.factors.detach()
        losses, norms = (t.to(w) for t in self._seen)
        if self.steps == 0:
            self.initial.copy_(losses)
        progress = losses.clamp_min(0) / self.initial.clamp_min(EPS)
        rate = progress / progress.mean().clamp_min(EPS)
        target = (w * norms).mean() * rate**self.alpha
        self.factors.grad = torch.sign(w * norms - target) * norms
        self.optimizer.step()
        self.factors.clamp_min_(EPS).mul_(self.n_tasks / self.factors.sum())
        self.steps += 1
        self._seen = None
