"""``mtlbench bench step``: what a step costs, by task, method and wrapper, and how that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt

from mtlbench.bench.peak import peak_memory
from mtlbench.bench.plan import Part, Plan
from mtlbench.bench.references import passes, period
from mtlbench.bench.timing import Call, Side, quartiles, ratio, time_rounds
from mtlbench.bench.workloads import CNN, Workload, benchmark, cnn
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.registry import METHODS, SHARPNESS, baseline


class Growth(Part):
    """A network at several numbers of tasks, and at several widths."""

    network: CNN
    tasks: list[PositiveInt]
    width: list[PositiveFloat]

    def sizes(self) -> list[CNN]:
        """The networks, each once."""
        by_tasks = [(K, 1.0) for K in self.tasks]
        by_width = [(self.network.tasks, factor) for factor in self.width]
        return [self.scaled(K, factor) for K, factor in dict.fromkeys(by_tasks + by_width)]

    def scaled(self, n_tasks: int, factor: float) -> CNN:
        """The network with another number of tasks and every width times ``factor``."""
        before = self.network
        widths = [max(1, round(factor * width)) for width in [*before.widths, before.features]]
        name = f"{before.name} K={n_tasks} x{factor:g}"
        changes = {"name": name, "widths": widths[:-1], "features": widths[-1], "tasks": n_tasks}
        return before.model_copy(update=changes)


class Target(Part):
    """What is demanded of a step."""

    method: str
    sharpness: str
    faster: PositiveFloat
    """Times faster than each yardstick of the wrapper."""
    passes: PositiveFloat
    """Bound of the time, relative to the step's passes."""


class Targets(Part):
    """What is demanded of steps on one network."""

    network: CNN
    cases: list[Target]


class StepPlan(Plan):
    """What is measured: the contents of ``steps.yaml``."""

    file: ClassVar[str] = "steps.yaml"

    tasks: list[str]
    methods: list[str]
    sharpness: list[str] | None
    growth: Growth
    targets: Targets

    def narrowed(
        self,
        tasks: list[str] | None,
        methods: list[str] | None,
        sharpness: list[str] | None,
        k: list[int] | None,
        width: list[float] | None,
    ) -> StepPlan:
        """Only these: of tasks, numbers of tasks and widths the ones that are given; and no
        targets, which are of other steps."""
        chosen = self
        if methods or sharpness:
            update = {"methods": methods or self.methods, "sharpness": sharpness or self.sharpness}
            chosen = chosen.model_copy(update=update)
        if tasks or k or width:
            growth = self.growth.model_copy(update={"tasks": k or [], "width": width or []})
            chosen = chosen.model_copy(update={"tasks": tasks or [], "growth": growth})
        if chosen is self:
            return self
        none = self.targets.model_copy(update={"cases": []})
        return chosen.model_copy(update={"targets": none})


@dataclass(frozen=True)
class StepCase:
    """A method with a wrapper on a network.

    Args:
        name: unique.
        build: makes the workload.
        target: None where nothing is demanded.
    """

    name: str
    build: Callable[[], Workload]
    method: str
    sharpness: str
    target: Target | None = None


@dataclass(frozen=True)
class StepRow:
    """A measured case: medians over the rounds, of ratios those of single rounds. Where steps of
    different costs take turns, all numbers are means over a turn."""

    case: str
    method: str
    sharpness: str
    n_tasks: int
    n_parameters: int
    forward: float
    """Forward passes a step."""
    backward: float
    """Backward passes a step."""
    ms: float
    ms_low: float
    """Lower quartile."""
    ms_high: float
    """Upper quartile."""
    to_baseline: float
    """Ratio to a step of the baseline."""
    to_passes: float
    """Ratio to the sum of the step's passes, each timed alone."""
    to_passes_cpu: float
    """The same ratio of this process's CPU time, which other processes disturb less."""
    memory_mb: float | None
    """See :func:`peak_memory`: the network, its gradients, the optimizer, the first steps."""
    faster: float | None
    """Times faster than the wrapper's fastest yardstick; None where nothing is demanded."""
    faster_cpu: float | None
    """The same of CPU time."""
    target_faster: float | None
    target_passes: float | None
    met: bool | None
    rounds: int


def cases(plan: StepPlan, device: torch.device) -> Iterator[StepCase]:
    """The cases of a plan, in the order of the table."""
    builders = {name: partial(benchmark, name, plan.seed, device) for name in plan.tasks}
    sizes = plan.growth.sizes()
    builders |= {size.name: partial(cnn, size, plan.seed, device) for size in sizes}
    wrappers = SHARPNESS.names() if plan.sharpness is None else plan.sharpness
    for name, build in builders.items():
        for method in plan.methods:
            for sharpness in wrappers:
                yield StepCase(f"{name}: {method} x {sharpness}", build, method, sharpness)
    network = plan.targets.network
    build = partial(cnn, network, plan.seed, device)
    for target in plan.targets.cases:
        name = f"{network.name}: {target.method} x {target.sharpness}"
        yield StepCase(name, build, target.method, target.sharpness, target)


def measured(case: StepCase, *, rounds: int, seconds: float, device: torch.device) -> StepRow:
    """Time a case and see how much memory it takes."""
    work = case.build()
    stepper = work.stepper(case.method, case.sharpness)
    plain = work.stepper(baseline(), SHARPNESS.default)
    n = period(stepper)

    def steps() -> None:
        for _ in range(n):
            stepper.step(work.batch, work.loss, [work.batch] * stepper.n_further)

    sides: list[Side] = [
        [steps],
        [partial(plain.step, work.batch, work.loss)],
        passes(work, case.method, case.sharpness),
    ]
    sides += [[make] for make in ([] if case.target is None else _yardsticks(case, work))]
    ours, base, alone, *yardsticks = time_rounds(
        sides, rounds=rounds, seconds=seconds, device=device
    )
    low, ms, high = quartiles(ours.wall)
    to_passes = ratio(ours.wall, alone.wall)
    faster = min((n * ratio(y.wall, ours.wall) for y in yardsticks), default=None)
    target = case.target
    return StepRow(
        case=case.name,
        method=case.method,
        sharpness=case.sharpness,
        n_tasks=len(stepper.objectives),
        n_parameters=stepper.flat.data.numel(),
        forward=stepper.passes.forward / stepper.steps,
        backward=stepper.passes.backward / stepper.steps,
        ms=ms / n,
        ms_low=low / n,
        ms_high=high / n,
        to_baseline=ratio(ours.wall, base.wall) / n,
        to_passes=to_passes,
        to_passes_cpu=ratio(ours.cpu, alone.cpu),
        memory_mb=peak_memory(partial(_first_steps, case, n + 1), device),
        faster=faster,
        faster_cpu=min((n * ratio(y.cpu, ours.cpu) for y in yardsticks), default=None),
        target_faster=None if target is None else target.faster,
        target_passes=None if target is None else target.passes,
        met=None
        if target is None or faster is None
        else faster >= target.faster and to_passes <= target.passes,
        rounds=len(ours.wall),
    )


def _yardsticks(case: StepCase, work: Workload) -> list[Call]:
    wrapper = SHARPNESS.build(case.sharpness)
    made = []
    for make in (yardsticks(wrapper) or {}).values():
        model = work.build()
        method = METHODS.build(case.method, len(model.heads)).to(work.device)
        made.append(make(model, work.optimize(model), method, work.batch, work.loss))
    return made


def _first_steps(case: StepCase, n: int) -> None:
    """Build everything and train."""
    work = case.build()
    stepper = work.stepper(case.method, case.sharpness)
    for _ in range(n):
        stepper.step(work.batch, work.loss, [work.batch] * stepper.n_further)
