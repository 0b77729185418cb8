"""F-MTL: the losses' and the flatness' gradients aggregated apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import PositiveFloat

from mtlbench.flat import Move
from mtlbench.interfaces import GradientView, Passes, SharpnessInfo, SharpnessWrapper, Update
from mtlbench.methods.sharpness._ball import length
from mtlbench.problem import StepProblem
from mtlbench.views import DenseView


class FMTL(SharpnessWrapper):
    r"""Algorithm 1 of `"Improving Multi-task Learning via Seeking Task-based Flat Regions"
    <https://arxiv.org/abs/2211.13723>`_.

    With :math:`\epsilon_k = \rho \, g_k / \lVert g_k \rVert` on the trunk and
    :math:`\epsilon_k^h = \rho_h \, g_k^h / \lVert g_k^h \rVert` on head k,

    .. math:: g_k^{SAM} = \nabla L_k(\theta + \epsilon_k, h_k + \epsilon_k^h), \qquad
        g_k^{flat} = g_k^{SAM} - g_k, \qquad d = A(g_1..g_K) + A(g_1^{flat}..g_K^{flat})

    where A is the weighting method, with a state of its own for each part. Head k gets
    :math:`g_k^{h, SAM}`, whatever the method's head policy.

    The flat rows are orders of magnitude smaller than the loss rows: a method that is not
    scale-equivariant (FairGrad, Nash-MTL) blows their part up.

    Args:
        rho: length of the trunk's perturbation.
        rho_head: length of a head's perturbation; ``rho`` by default.
    """

    info = SharpnessInfo(name="fmtl", title="F-MTL", year=2022, arxiv="2211.13723")
    parts: ClassVar[int] = 2

    def __init__(self, *, rho: PositiveFloat = 0.05, rho_head: PositiveFloat | None = None) -> None:
        super().__init__()
        self.rho, self.rho_head = rho, rho if rho_head is None else rho_head

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + n_tasks, 2 * n_tasks)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        J, own = here.jacobian(), here.head_grads()

        def move(k: int) -> Sequence[Move]:
            return (
                (flat.shared, J[k], length(J[k], self.rho)),
                (flat.heads[k], own[k], length(own[k], self.rho_head)),
            )

        sharp = problem.view_at(here.losses, move)
        flatness = sharp.jacobian().sub_(J)
        heads = sharp.head_grads()
        loss_part = aggregate[0](here)
        flat_part = aggregate[1](DenseView(here.losses, flatness, heads, problem.generator))
        return Update(loss_part.shared + flat_part.shared, heads)
