"""WSAM: the loss and its sharpness, weighted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    GradientView,
    HeadPolicy,
    Move,
    Passes,
    SharpnessInfo,
    StepProblem,
    Update,
)
from mtlbench.methods.sharpness._ball import PointWrapper, blocks_of, mean_gradient


class WSAM(PointWrapper):
    r"""`"Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization Term"
    <https://arxiv.org/abs/2305.15817>`_ for every task.

    .. math:: L_k^{WSAM} = L_k + \frac{\gamma}{1 - \gamma} (L_k^{SAM} - L_k), \qquad
        J_k = (1 - a) \nabla L_k(\theta) + a \nabla L_k(\theta + \epsilon), \quad
        a = \frac{\gamma}{1 - \gamma}

    on trunk and heads, with the perturbation of :class:`~mtlbench.methods.sharpness.sam.SAM`:
    plain gradients for :math:`\gamma = 0`, SAM for 0.5, and beyond it the sharpness counts more.

    Departs from the paper's algorithm, whose optimizer sees the loss' gradient alone while the
    sharpness' is added to the parameters by plain descent ("decoupled"): a step here is one
    gradient for the optimizer, the released code's ``decouple=False``. It is the same for plain
    gradient descent. Nor are the two gradients clipped. Known from the abstract, a second-hand
    account of the algorithm and the released code, not from the paper's text.

    Ours: ``points="per-task"``, with :math:`\epsilon_k` of each task's own gradient.

    Costs one forward pass and one more than twice the backward passes of the method alone; with
    points of their own, K forward and 2 K backward passes, one backward pass more under a method
    that asks for no Jacobian. As gradients of two points are added, there is no common trunk
    output.

    Args:
        gamma: weight of the sharpness.
        common: points, rho, blocks and adaptive, see
            :class:`~mtlbench.methods.sharpness._ball.PointWrapper`.
    """

    info = SharpnessInfo(name="wsam", title="WSAM", year=2023, arxiv="2305.15817")

    def __init__(self, *, gamma: Annotated[float, Ge(0), Lt(1)] = 0.9, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.common_point = gamma / (1 - gamma), False

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        if self.per_task:
            return Passes(method.forward + n_tasks, 2 * n_tasks + (method.backward == 1))
        return Passes(method.forward + 1, 2 * method.backward + 1)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view(keep=True)
        if self.per_task:

            def move(k: int) -> list[Move]:
                own, head = here.row(k)
                return self.moves(problem, [(flat.shared, own), (flat.heads[k], head)], k)

            return aggregate[0](Mixture(here, problem.view_at(here.losses, move), self.a))
        moves = self.moves(problem, blocks_of(flat, mean_gradient(here)))
        everyone = [range(problem.n_tasks)]
        there = problem.view_at_points(here.losses, everyone, lambda point: moves)
        return aggregate[0](Mixture(here, there, self.a))


class Mixture(GradientView):
    """``1 - a`` times the gradients of one view and ``a`` times those of another."""

    def __init__(self, here: GradientView, there: GradientView, a: float) -> None:
        self.here, self.there, self.a = here, there, a
        self.losses, self.generator = here.losses, here.generator

    def _mixed(self, here: Tensor, there: Tensor) -> Tensor:
        return here.lerp(there, self.a)

    def jacobian(self) -> Tensor:
        return self._mixed(self.here.jacobian(), self.there.jacobian())

    def head_grads(self) -> Sequence[Tensor]:
        return [*map(self._mixed, self.here.head_grads(), self.there.head_grads())]

    def representation_jacobian(self) -> Tensor:
        raise UsageError("gradients at two points have no common trunk output; use at='shared'")

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        here, there = (view.combine(weights, heads) for view in (self.here, self.there))
        own = [*map(self._mixed, here.heads, there.heads)]
        return Update(self._mixed(here.shared, there.shared), own, here.weights)
