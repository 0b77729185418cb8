"""GSAM: SAM that also lowers the gap between the perturbed loss and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mtlbench.interfaces import (
    DenseView,
    GradientView,
    Passes,
    SharpnessInfo,
    StepProblem,
    Update,
)
from mtlbench.methods.sharpness._ball import PointWrapper, blocks_of, mean_gradient

Aggregate = Callable[[GradientView], Update]


class GSAM(PointWrapper):
    r"""`"Surrogate Gap Minimization Improves Sharpness-Aware Training"
    <https://arxiv.org/abs/2203.08065>`_ on the mean loss of the tasks, or on each task's own.

    With the gradient g at the parameters and :math:`g^p` at the perturbed point of
    :class:`~mtlbench.methods.sharpness.sam.SAM`, one task's step is

    .. math:: g^p - \alpha g_\perp, \qquad
        g_\perp = g - \frac{g^\top g^p}{\lVert g^p \rVert^2} g^p

    which goes up the part of the loss's gradient that the perturbed loss does not feel.

    For K tasks, ours: with ``points="common"``, g and :math:`g^p` are those of the mean loss, and
    what is changed is the method's aggregate d of the gradients at the perturbed point,
    :math:`d - \alpha \lVert d \rVert / \lVert g^p \rVert \, g_\perp`; that is the paper's step on
    the sum of the losses under LS. With ``points="per-task"``, every row of the Jacobian is its
    task's step, and the method aggregates these.

    Departs from the paper: rho is constant, where the paper lowers it with the learning rate.
    Known from the abstract and the released code, not from the paper's text.

    Costs one forward and one backward pass more than the method alone, two backward passes under a
    method that asks for no Jacobian; K forward and 2 K backward passes, and two Jacobians, with
    points of their own.

    Args:
        alpha: how far the step is changed; the default is that of the released example.
        common: points, rho, blocks and adaptive, see
            :class:`~mtlbench.methods.sharpness._ball.PointWrapper`; with "separate" blocks, trunk
            and heads are changed apart, else as one vector.
    """

    info = SharpnessInfo(name="gsam", title="GSAM", year=2022, arxiv="2203.08065")

    def __init__(self, *, alpha: NonNegativeFloat = 0.2, **common: Any) -> None:
        super().__init__(**common)
        self.alpha = alpha

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        spent = super().passes(n_tasks, method)
        spent.backward += not self.per_task and method.backward == 1
        return spent

    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        flat, here = problem.flat, problem.view()
        if self.per_task:
            return aggregate[0](self._rows(problem, here))
        mean = mean_gradient(here)
        with flat.shifted(*self.moves(problem, blocks_of(flat, mean))):
            there = problem.view(losses=here.losses, keep=True)
            update = aggregate[0](there)
            sharp = mean_gradient(there)
        shared, *heads = self._changed(*(vectors(u) for u in (update, mean, sharp)))
        return Update(shared, heads, update.weights)

    def _rows(self, problem: StepProblem, here: GradientView) -> GradientView:
        """The tasks' steps in place of their gradients."""
        flat = problem.flat
        plain = list(zip(here.jacobian(), here.head_grads(), strict=True))
        there = problem.view_at(
            here.losses,
            lambda k: self.moves(
                problem, list(zip([flat.shared, flat.heads[k]], plain[k], strict=True)), k
            ),
        )
        sharp = zip(there.jacobian(), there.head_grads(), strict=True)
        steps = [self._changed(s, g, s) for g, s in zip(plain, sharp, strict=True)]
        rows, heads = zip(*steps, strict=True)
        return DenseView(here.losses, torch.stack(rows), heads, here.generator)

    def _changed(
        self, update: Sequence[Tensor], plain: Sequence[Tensor], sharp: Sequence[Tensor]
    ) -> list[Tensor]:
        """Trunk and heads of an update, whose gradients are ``plain`` and ``sharp``."""
        parts = [*zip(update, plain, sharp, strict=True)]
        if self.apart and len(parts) > 1:
            return [step for part in parts for step in self._changed(*([v] for v in part))]
        square = torch.stack([s @ s for s in sharp]).sum()
        size = torch.stack([d @ d for d in update]).sum()
        along = torch.stack([g @ s for g, s in zip(plain, sharp, strict=True)]).sum()
        share, ratio = (torch.where(square > 0, v / square, 0.0) for v in (along, size))
        factor = self.alpha * ratio.sqrt()
        return [d - factor * (g - share * s) for d, g, s in parts]


def vectors(update: Update) -> list[Tensor]:
    return [update.shared, *update.heads]
