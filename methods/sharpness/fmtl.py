"""F-MTL: the losses' and the flatness' gradients aggregated apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    DenseView,
    GradientView,
    Move,
    Passes,
    PointView,
    SharpnessInfo,
    SharpnessWrapper,
    StepProblem,
    Update,
)
from mtlbench.methods.sharpness._ball import Ball

Aggregate = Callable[[GradientView], Update]


class FMTL(SharpnessWrapper):
    r"""Algorithm 1 of `"Improving Multi-task Learning via Seeking Task-based Flat Regions"
    <https://arxiv.org/abs/2211.13723>`_.

    With :math:`\epsilon_k = \rho \, g_k / \lVert g_k \rVert` on the trunk and
    :math:`\epsilon_k^h = \rho_h \, g_k^h / \lVert g_k^h \rVert` on head k,

    .. math:: g_k^{SAM} = \nabla L_k(\theta + \epsilon_k, h_k + \epsilon_k^h), \qquad
        g_k^{flat} = g_k^{SAM} - g_k, \qquad d = A(g_1..g_K) + A(g_1^{flat}..g_K^{flat})

    where A is the weighting method, with a state of its own for each part. Head k gets
    :math:`g_k^{h, SAM}`, whatever the method's head policy.

    The flat rows are orders of magnitude smaller than the loss rows: a method that does not claim
    ``scaling`` (FairGrad, Nash-MTL) blows their part up, and a warning says so. Two other values of
    ``flatness``, not the paper's, avoid that.

    Costs K forward and 2 K backward passes; one backward pass more under a method that asks for no
    Jacobian, which then needs no memory for its rows.

    Args:
        rho: length of the trunk's perturbation.
        rho_head: length of a head's perturbation; ``rho`` by default.
        direct: the paper's ablation without the split: :math:`d = A(g_1^{SAM}..g_K^{SAM})`.
        flatness: "own" solves for the flat rows by themselves; "reused" gives them the weights of
            the losses' rows; "rescaled" solves for them at the size of the losses' rows.
        adaptive: lengths relative to the parameters, see :class:`Ball`.
    """

    info = SharpnessInfo(name="fmtl", title="F-MTL", year=2022, arxiv="2211.13723")
    common_point = False

    def __init__(
        self,
        *,
        rho: PositiveFloat = 0.05,
        rho_head: PositiveFloat | None = None,
        direct: bool = False,
        flatness: Literal["own", "reused", "rescaled"] = "own",
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        self.ball = Ball(rho, adaptive)
        self.head_ball = Ball(rho if rho_head is None else rho_head, adaptive)
        self.direct, self.flatness = direct, flatness
        self.parts = 1 if direct or flatness == "reused" else 2
        self.expects = ("scaling",) if not direct and flatness == "own" else ()

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        of_losses = method.backward == 1 and not self.direct
        alone = method.head_backward if of_losses else 0
        return Passes(method.forward + n_tasks, 2 * n_tasks + of_losses, alone)

    def update(self, problem: StepProblem, *aggregate: Aggregate) -> Update:
        flat, here = problem.flat, problem.view(keep=True)

        def move(k: int) -> Sequence[Move]:
            own, head = here.row(k)
            trunk = self.ball.moves(flat, (flat.shared, own))
            return [*trunk, *self.head_ball.moves(flat, (flat.heads[k], head))]

        if self.direct:
            sharp = problem.view_at(here.losses, move)
            update = aggregate[0](sharp)
            return Update(update.shared, sharp.head_grads(), update.weights)
        loss_part = aggregate[0](here)
        flat_rows = problem.view_at(here.losses, move, base=here)
        flat_part = self._flat_part(flat_rows, here, loss_part, aggregate[-1])
        return Update(loss_part.shared + flat_part, flat_rows.head_grads())

    def _flat_part(
        self, rows: GradientView, here: PointView, loss_part: Update, aggregate: Aggregate
    ) -> Tensor:
        """The flat rows' share of the shared gradient, (P,)."""
        if self.flatness == "own":
            return aggregate(rows).shared
        if self.flatness == "reused":
            if loss_part.weights is None:
                raise UsageError("fmtl:flatness=reused needs a method that works by weights")
            return rows.combine(loss_part.weights).shared
        loss_size = here.jacobian().norm()
        size = rows.jacobian().norm() / loss_size
        size = torch.where(size > 0, size, 1.0)
        view = DenseView(here.losses, rows.jacobian() / size, rows.head_grads(), here.generator)
        return size * aggregate(view).shared
