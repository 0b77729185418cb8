"""FAMO: fast adaptive multi-task optimisation, from losses alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.methods._adam import TaskAdam

EPS = 1e-8


class FAMO(WeightingMethod):
    r"""`"FAMO: Fast Adaptive Multitask Optimization" <https://arxiv.org/abs/2306.03792>`_.

    With logits :math:`\xi`, :math:`z = \operatorname{softmax}(\xi)` and lower bounds b of the
    losses,

    .. math:: w_k = \frac{z_k / (L_k - b_k)}{\sum_j z_j / (L_j - b_j)}, \qquad
        \xi \leftarrow \xi - \beta \left( J_\xi z^\top \delta + \gamma \xi \right), \qquad
        \delta_k = \log \frac{L_k - b_k}{L_k' - b_k}

    where L' are the losses of the same batch after the step.

    As in the authors' code, :math:`\gamma` is Adam's weight decay and the bounds are constants.

    Departs from the authors' code, whose ``famo.py`` clips the shared gradient to norm 1: here that
    is the protocol's ``clip_norm``. (In their benchmarks the clip comes before the backward pass,
    where there is nothing to clip.)

    Args:
        n_tasks: K.
        lr: :math:`\beta`, learning rate of the logits.
        gamma: their weight decay.
        min_loss: b, one lower bound for all losses.
    """

    info = MethodInfo(
        name="famo",
        title="FAMO",
        year=2023,
        arxiv="2306.03792",
        head_policy="weighted",
        scale="mean",
        extra_forwards=1,
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        lr: PositiveFloat = 0.025,
        gamma: NonNegativeFloat = 0.01,
        min_loss: float = 0.0,
    ) -> None:
        super().__init__(n_tasks)
        self.min_loss = min_loss
        self.logits = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.logits], lr, weight_decay=gamma)
        self._gaps: Tensor | None = None

    def _gap(self, losses: Tensor) -> Tensor:
        return (losses - self.min_loss).clamp_min(0) + EPS

    def weights(self, view: GradientView) -> Tensor:
        self._gaps = self._gap(view.losses)
        w = self.logits.detach().softmax(0).to(view.losses) / self._gaps
        return w / w.sum()

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        gaps, self._gaps = self._gaps, None
        if gaps is None:
            return
        delta = gaps.log() - self._gap(evaluate()).log()
        with torch.enable_grad():
            z = self.logits.softmax(0)
        (grad,) = torch.autograd.grad(z, [self.logits], delta.to(z))
        # Where the step has left the domain, its losses teach nothing.
        self.logits.grad = torch.where(torch.isfinite(delta).all(), grad, torch.nan)
        self.optimizer.step()
