"""LDC-MTL: learnt weights, and a penalty for the differences of the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.methods._adam import TaskAdam

EPS = 1e-8


class LDCMTL(WeightingMethod):
    r"""Loss discrepancy control from `"LDC-MTL: Balancing Multi-Task Learning through Scalable Loss
    Discrepancy Control" <https://arxiv.org/abs/2502.08585>`_, with a vector W in place of the
    network that turns features into weights.

    The single-level form of the bi-level problem, on losses :math:`\ell_k = L_k / \nu_k`:

    .. math:: \min_{\theta, W} \; \sum_k \sigma_k \ell_k
        + \lambda \sum_{k < K} \left| \tau_k \ell_k - \tau_{k + 1} \ell_{k + 1} \right|,
        \qquad \sigma = \operatorname{softmax}(W)

    W has an Adam optimizer of its own. Neighbours are those in the order of the objectives (of
    those with a label), so that the order matters; weights of the smaller losses may be negative.

    Known from the abstract and the authors' code, not from the paper's text. The defaults are the
    code's for Cityscapes; for NYUv2 it has ``tau="weights"``, ``normalize="initial"`` and
    ``lam=0.05``. Departs from it: the network for the weights, and logarithms of the losses, which
    it takes on QM9.

    Args:
        n_tasks: K.
        lam: :math:`\lambda`.
        tau: :math:`\tau_k`, 1 or :math:`\sigma_k`.
        normalize: :math:`\nu_k`, 1 or the loss of the first step in which task k has a label, of
            which the smallest counts as 1.
        lr: learning rate of W.
    """

    info = MethodInfo(
        name="ldc_mtl",
        title="LDC-MTL",
        year=2025,
        arxiv="2502.08585",
        head_policy="weighted",
        scale="mean",
        claims=("scaling", "identical"),
    )
    initial: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        lam: NonNegativeFloat = 0.1,
        tau: Literal["one", "weights"] = "one",
        normalize: Literal["none", "initial"] = "none",
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(n_tasks)
        self.lam, self.tau, self.normalize = lam, tau, normalize
        self.logits = nn.Parameter(torch.zeros(n_tasks))
        self.optimizer = TaskAdam([self.logits], lr)
        self.register_buffer("initial", torch.zeros(n_tasks))  # 0 until it is known
        self._proposed: tuple[Tensor, Tensor] | None = None

    def weights(self, view: GradientView) -> Tensor:
        losses = view.losses.to(self.initial)
        initial = torch.where(self.initial > 0, self.initial, losses.clamp_min(EPS))
        W, L = (t.detach().clone().requires_grad_() for t in (self.logits, losses))
        with torch.enable_grad():
            W_slope, w = torch.autograd.grad(self._objective(W, L, initial), [W, L])
        self._proposed = W_slope, initial
        return w.to(view.losses)

    def _objective(self, W: Tensor, losses: Tensor, initial: Tensor) -> Tensor:
        scaled = losses if self.normalize == "none" else losses * initial.min() / initial
        shares = W.softmax(0)
        compared = scaled if self.tau == "one" else shares * scaled
        return shares @ scaled + self.lam * compared.diff().abs().sum()

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.logits.grad, self.initial = self._proposed
            self.optimizer.step()
            self._proposed = None
