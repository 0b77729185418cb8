"""SAM: one perturbation along the mean gradient for all tasks."""

from __future__ import annotations

from collections.abc import Callable

from mtlbench.interfaces import GradientView, Passes, SharpnessInfo, StepProblem, Update
from mtlbench.methods.sharpness._ball import BallWrapper, mean_gradient


class SAM(BallWrapper):
    r"""Global SAM: `"Sharpness-Aware Minimization for Efficiently Improving Generalization"
    <https://arxiv.org/abs/2010.01412>`_ on the mean loss of the tasks.

    .. math:: \epsilon = \rho \, g_0 / \lVert g_0 \rVert, \qquad
        J_k = \nabla L_k(\theta + \epsilon), \qquad g_0 = \tfrac1K \sum_k \nabla L_k(\theta)

    Costs one forward and one backward pass more than the method alone.

    Args:
        rho: length of the perturbation.
        blocks: "joint" perturbs trunk and heads by one vector of length rho; "separate" gives the
            trunk and each head a perturbation of length rho of its own.
        adaptive: lengths relative to the parameters, see
            :class:`~mtlbench.methods.sharpness._ball.Ball`.
    """

    info = SharpnessInfo(name="sam", title="SAM", year=2021, arxiv="2010.01412")

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + 1, method.backward + 1, method.head_backward)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        blocks = zip([flat.shared, *flat.heads], [mean.shared, *mean.heads], strict=True)
        with flat.shifted(*self.ball.moves(flat, *blocks, apart=self.apart)):
            return aggregate[0](problem.view(losses=here.losses))
