"""DB-MTL: logarithms of the losses, averaged gradients, all as long as the longest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.methods._columns import column_blocks

EPS = 1e-8


class DBMTL(WeightingMethod):
    r"""`"Dual-Balancing for Multi-Task Learning" <https://arxiv.org/abs/2308.12029>`_.

    With :math:`\beta_t = \beta / t^\sigma` and :math:`\hat g_k = 0` at first,

    .. math:: \hat g_k \leftarrow \beta_t \hat g_k + (1 - \beta_t) \nabla \log (L_k + 10^{-8}),
        \qquad d = \max_j \lVert \hat g_j \rVert \sum_k \frac{\hat g_k}{\lVert \hat g_k \rVert}

    Head k gets the gradient of its :math:`\log (L_k + 10^{-8})`. Zero rows stay zero.

    The weights in an average sum to less than 1 at first, so that a task that begins later would
    have a shorter one than the others. It begins as if its first gradient had been there from the
    start; one that was away goes on as if its average had been its gradient. A task alone is plain
    descent, and its average follows.

    Departs from the authors' code (LibMTL): nothing is added to the norms, which bounded the factor
    of a small gradient; a negative loss counts as zero.

    Args:
        n_tasks: K.
        beta: how much of the average is kept.
        decay: :math:`\sigma`. 0, the default of the authors' code, keeps as much for ever. That has
            its price under Adam: on most of our leaderboards it is among the last with 0, and in
            the first third with 0.5 (``leaderboards/README.md``).
    """

    info = MethodInfo(
        name="db_mtl",
        title="DB-MTL",
        year=2023,
        arxiv="2308.12029",
        head_policy="weighted",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "scaling", "row-scaling"),
    )
    on_host = ("steps",)
    steps: Tensor
    full: Tensor
    filled: Tensor
    average: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9,
        decay: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(n_tasks)
        self.beta, self.decay = beta, decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # Sum of the weights in an average that began with the first step, and in each task's.
        self.register_buffer("full", torch.zeros((), dtype=torch.float64))
        self.register_buffer("filled", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("average", torch.zeros(n_tasks, 0))  # (K, P) from the first step on
        self._proposed: tuple[Tensor, Callable[[slice], Tensor], Tensor] | None = None

    def aggregate(self, view: GradientView) -> Update:
        J, t = view.jacobian(), int(self.steps) + 1
        beta, inverse = self.beta / t**self.decay, 1 / (view.losses.clamp_min(0) + EPS)
        begun, full = self.filled > 0, beta * self.full + 1 - beta
        share = torch.where(begun, 1 - beta, full).to(J)
        kept = torch.where(begun, beta * (self.full / self.filled), 0.0).to(J)
        averaged = partial(self._averaged, J, share * inverse, kept)
        self._proposed = J, averaged, full
        if view.n_tasks == 1:
            return super().aggregate(view)
        norms = torch.stack([averaged(c).norm(dim=1) for c in column_blocks(J)]).norm(dim=0)
        factors = torch.where(norms > 0, norms.max() / norms, 0.0)
        update = J.new_empty(J.shape[1])
        for columns in column_blocks(J):
            update[columns] = factors @ averaged(columns)
        heads = [w * own for w, own in zip(inverse, view.head_grads(), strict=True)]
        return Update(update, heads)

    def _averaged(self, J: Tensor, share: Tensor, kept: Tensor, columns: slice) -> Tensor:
        """Columns of the new average, which is nowhere whole before the step is done."""
        average = J[:, columns] * share[:, None]
        if self.average.numel():
            average.addcmul_(self.average[:, columns].to(J), kept[:, None])
        return average

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            J, averaged, self.full = self._proposed
            new = self.average.to(J) if self.average.numel() else torch.empty_like(J)
            for columns in column_blocks(J):
                new[:, columns] = averaged(columns)
            self.average = new
            self.filled.copy_(self.full)
            self.steps += 1
            self._proposed = None
