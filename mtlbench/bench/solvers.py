"""``mtlbench bench solvers``: how fast and how exact the weights are found, and by what else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from mtlbench.bench.plan import Part, Plan
from mtlbench.bench.timing import Case, Contest, Row, measure
from mtlbench.bench.yardsticks import SolverYardsticks, yardsticks
from mtlbench.engine.gramian import Array, GramianMethod
from mtlbench.registry import METHODS

Family = Literal["independent", "conflicting", "scaled"]
Solve = Callable[[Array, Array], Array]
CPU: Final = torch.device("cpu")


class Target(Part):
    """What is demanded of a method at one number of tasks."""

    method: str
    yardstick: str
    tasks: PositiveInt
    faster: PositiveFloat
    gap: PositiveFloat


class SolversPlan(Plan):
    """What is measured: the contents of ``solvers.yaml``."""

    file: ClassVar[str] = "solvers.yaml"

    sizes: list[PositiveInt]
    parameters: PositiveInt
    families: list[Family]
    methods: list[str] | None
    targets: list[Target]


def gramian(family: Family, n_tasks: int, n_parameters: int, seed: int) -> Array:
    """The Gramian of made-up gradients.

    Args:
        family: ``"independent"`` normal entries, ``"conflicting"`` with a common component that
            every other task has with the other sign, ``"scaled"`` to norms from 1e-3 to 1e3.
        n_tasks: K.
        n_parameters: P.
        seed: of the entries.
    """
    rng = np.random.default_rng([seed, n_tasks])
    J, common = rng.standard_normal((n_tasks, n_parameters)), rng.standard_normal(n_parameters)
    if family == "conflicting":
        J += np.outer((-1.0) ** np.arange(n_tasks), common)
    if family == "scaled":
        J *= rng.permutation(np.logspace(-3, 3, n_tasks))[:, None]
    return np.asarray(J @ J.T)


class Attempt:
    """A solve that may fail, and what it last found: weights, or NaN."""

    def __init__(self, solve: Solve, gramian: Array, losses: Array) -> None:
        self._call = partial(solve, gramian, losses)
        self.found = np.full(len(gramian), np.nan)

    def __call__(self) -> None:
        """Try once."""
        with suppress(ArithmeticError):
            self.found = self._call()


@dataclass(frozen=True)
class SolverCase(Case):
    """A solve against a yardstick.

    Args:
        ours: at the method's solve.
        theirs: at the yardstick's.
        gap: of the weights that one of them found.
        gap_target: bound of our gap; None where nothing is demanded.
    """

    ours: Attempt
    theirs: Attempt
    gap: Callable[[Array], float]
    gap_target: float | None


@dataclass(frozen=True)
class SolverRow(Row):
    """A measured case, and how far from optimal both sides ended; NaN where one found nothing."""

    faster: float
    """The yardstick's time over ours."""
    gap: float
    reference_gap: float
    gap_target: float | None


def cases(plan: SolversPlan) -> Iterator[SolverCase]:
    """The cases of a plan, in the order of the table."""
    for name in METHODS.names() if plan.methods is None else plan.methods:
        for n_tasks in plan.sizes:
            method = METHODS.build(name, n_tasks)
            if not isinstance(method, GramianMethod):
                continue
            demands = {
                target.yardstick: target
                for target in plan.targets
                if (target.method, target.tasks) == (name, n_tasks)
            }
            for family in plan.families:
                yield from _duels(plan, method, family, demands)


def _duels(
    plan: SolversPlan, method: GramianMethod, family: Family, demands: dict[str, Target]
) -> Iterator[SolverCase]:
    K = method.n_tasks
    G, losses = gramian(family, K, plan.parameters, plan.seed), np.ones(K)
    others: SolverYardsticks | None = yardsticks(method)
    if others is None:
        return
    for yardstick, solve in others.ways.items():
        ours, theirs = (Attempt(way, G, losses) for way in (method.solve, solve))
        demand = demands.get(yardstick)
        yield SolverCase(
            name=f"{method.info.name} K={K} {family}: {yardstick}",
            target=None if demand is None else 1 / demand.faster,
            prepare=partial(Contest, ours, [theirs]),
            ours=ours,
            theirs=theirs,
            gap=partial(others.gap, G, losses),
            gap_target=None if demand is None else demand.gap,
        )


def measured(case: SolverCase, *, rounds: int, seconds: float) -> SolverRow:
    """Time a case and judge what both sides found."""
    row = measure(case, rounds=rounds, seconds=seconds, device=CPU)
    gap, reference_gap = case.gap(case.ours.found), case.gap(case.theirs.found)
    met = None if case.gap_target is None else bool(row.met) and gap <= case.gap_target
    return SolverRow(
        **vars(row) | {"met": met},
        faster=1 / row.ratio,
        gap=gap,
        reference_gap=reference_gap,
        gap_target=case.gap_target,
    )
