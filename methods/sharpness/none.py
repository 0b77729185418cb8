"""No wrapper: every gradient is taken where the parameters are."""

from __future__ import annotations

from collections.abc import Callable

from mtlbench.interfaces import (
    GradientView,
    Passes,
    SharpnessInfo,
    SharpnessWrapper,
    StepProblem,
    Update,
)


class Plain(SharpnessWrapper):
    """The method as it is."""

    info = SharpnessInfo(name="none", title="none", identity=True)

    def passes(self, n_tasks: int, method: Passes) -> Passes:
        return method

    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        return aggregate[0](problem.view())
