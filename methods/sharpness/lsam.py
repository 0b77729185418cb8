"""L-SAM: each task's gradient where its own loss climbs fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtlbench.interfaces import GradientView, Move, Passes, SharpnessInfo, StepProblem, Update
from mtlbench.methods.sharpness._ball import BallWrapper


class LSAM(BallWrapper):
    r"""Local SAM, as compared with in `"SAMO: A Lightweight Sharpness-Aware Approach for Multi-Task
    Optimization with Joint Global-Local Perturbation" <https://arxiv.org/abs/2507.07883>`_: SAM
    for every task by itself, aggregated directly.

    .. math:: \epsilon_k = \rho \, g_k / \lVert g_k \rVert, \qquad
        J_k = \nabla L_k(\theta + \epsilon_k), \qquad g_k = \nabla L_k(\theta)

    Costs K forward and 2 K backward passes; the gradients :math:`g_k` are taken one by one and not
    kept.

    Args:
        rho: length of the perturbations.
        blocks: "joint" perturbs the trunk and head k by one vector of length rho; "separate" gives
            each of the two a perturbation of length rho.
        adaptive: lengths relative to the parameters, see
            :class:`~mtlbench.methods.sharpness._ball.Ball`.
    """

    info = SharpnessInfo(name="lsam", title="L-SAM", year=2025, arxiv="2507.07883")
    common_point = False

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + n_tasks, 2 * n_tasks)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view(keep=True)

        def move(k: int) -> Sequence[Move]:
            own, head = here.row(k)
            blocks = (flat.shared, own), (flat.heads[k], head)
            return self.ball.moves(flat, *blocks, apart=self.apart)

        return aggregate[0](problem.view_at(here.losses, move))
