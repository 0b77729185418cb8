"""GradNorm: weights learnt so that the tasks train at similar rates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, GramianPoint, MethodInfo, Update, WeightingMethod
from mtlbench.methods._adam import TaskAdam

EPS, ADAM_EPS = 1e-8, 1e-20
TIE = 1e-5
"""Relative difference of two norms that rounding in single precision may make."""


class GradNorm(WeightingMethod):
    r"""`"GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks"
    <https://arxiv.org/abs/1711.02257>`_.

    With the loss :math:`L_k(0)` of the first step in which task k has a label,
    :math:`\tilde L_k = L_k / L_k(0)` and
    :math:`r_k = \tilde L_k / \operatorname{mean}_j \tilde L_j`, w descends on

    .. math:: \sum_k \left| n_k - \bar n \, r_k^{\alpha} \right|, \qquad n_k = w_k \lVert g_k
        \rVert, \qquad \bar n = \operatorname{mean}_j n_j \; \text{(a constant)}

    after each step, and is scaled to its sum again, which is K.

    The objective has a kink where a norm meets its target: norms that are equal but for their
    rounding (1e-5) have no slope, and stay where they are.

    Departs from the paper: the norms are those of all shared parameters, as in LibMTL, or with
    ``at="representation"`` those at the trunk's output, not those of the last shared layer; w has
    an Adam optimizer of its own, with an epsilon too small to see the scale of the gradients, and
    stays positive. Where some tasks have no label, the sum of the others' weights is kept.

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
        self.optimizer = TaskAdam([self.factors], lr, eps=ADAM_EPS)
        self.register_buffer("initial", torch.zeros(n_tasks))
        self.register_buffer("steps", torch.zeros(n_tasks, dtype=torch.int64))
        self._losses: Tensor | None = None
        self._norms: Tensor | None = None

    def aggregate(self, view: GradientView) -> Update:
        self._losses, self._norms = view.losses, None  # a task alone has nothing to balance
        return super().aggregate(view)

    def weights(self, view: GradientView) -> Tensor:
        self._losses, self._norms = view.losses, view.gramian(self.at).diagonal().sqrt()
        return self.factors.detach().to(view.losses, copy=True)

    @torch.no_grad()
    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._losses is None:
            return
        losses = self._losses.to(self.initial)
        self.initial.copy_(torch.where(self.steps > 0, self.initial, losses))
        self.steps += 1
        if self._norms is not None:
            self._descend(losses, self._norms.to(losses))
        self._losses = self._norms = None

    def _descend(self, losses: Tensor, norms: Tensor) -> None:
        progress = losses.clamp_min(0) / self.initial.clamp_min(EPS)
        rate = progress / progress.mean().clamp_min(EPS)
        total, sizes = self.factors.sum(), self.factors * norms
        target = sizes.mean() * rate**self.alpha
        apart = (sizes - target).abs() > TIE * torch.maximum(sizes, target)
        self.factors.grad = torch.where(apart, torch.sign(sizes - target) * norms, 0.0)
        self.optimizer.step()
        self.factors.clamp_min_(EPS).mul_(total / self.factors.sum())
