"""SAM: one perturbation along the mean gradient for all tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat

from mtlbench.interfaces import GradientView, Passes, SharpnessInfo, SharpnessWrapper, Update
from mtlbench.methods.sharpness._ball import length, mean_gradient
from mtlbench.problem import StepProblem


class SAM(SharpnessWrapper):
    r"""Global SAM: `"Sharpness-Aware Minimization for Efficiently Improving Generalization"
    <https://arxiv.org/abs/2010.01412>`_ on the mean loss of the tasks.

    .. math:: \epsilon = \rho \, g_0 / \lVert g_0 \rVert, \qquad
        J_k = \nabla L_k(\theta + \epsilon), \qquad g_0 = \tfrac1K \sum_k \nabla L_k(\theta)

    Costs one forward and one backward pass more than the method alone.

    Args:
        rho: length of the perturbation.
        blocks: "joint" perturbs trunk and heads by one vector of length rho; "separate" gives the
            trunk and each head a perturbation of length rho of its own.
    """

    info = SharpnessInfo(name="sam", title="SAM", year=2021, arxiv="2010.01412")

    def __init__(
        self, *, rho: PositiveFloat = 0.05, blocks: Literal["joint", "separate"] = "joint"
    ) -> None:
        super().__init__()
        self.rho, self.blocks = rho, blocks

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return Passes(method.forward + 1, method.backward + 1, method.head_backward)

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        flat, here = problem.flat, problem.view()
        mean = mean_gradient(here)
        segments, directions = [flat.shared, *flat.heads], [mean.shared, *mean.heads]
        lengths = [length(d, self.rho) for d in directions]
        if self.blocks == "joint":
            norms = torch.stack([d.norm() for d in directions])
            lengths = [length(norms, self.rho)] * len(directions)
        with flat.shifted(*zip(segments, directions, lengths, strict=True)):
            return aggregate[0](problem.view(losses=here.losses))
