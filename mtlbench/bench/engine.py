"""``mtlbench bench engine``: what the engine adds to a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt

from mtlbench.bench.plan import Part, Plan
from mtlbench.bench.references import HandWritten, Pass, passes, run_pass
from mtlbench.bench.start import first_step, import_torch
from mtlbench.bench.timing import Case, Contest
from mtlbench.bench.workloads import CNN, Workload, benchmark, cnn, find_task
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.engine.randomness import seeded
from mtlbench.errors import UsageError
from mtlbench.interfaces import MethodInfo
from mtlbench.interfaces.gradients import inner_products
from mtlbench.registry import METHODS, SHARPNESS, baseline


class Plain(Part):
    """Methods without a wrapper; all registered ones if there is no list."""

    target: PositiveFloat
    methods: list[str] | None


class Wrapped(Part):
    """Methods with wrappers."""

    target: PositiveFloat
    methods: list[str]
    sharpness: list[str]


class LossBased(Part):
    """All registered methods that need but one backward pass, on some of the networks."""

    target: PositiveFloat
    networks: list[str]


class Heads(Part):
    """A step of the baseline on all objectives of a task, against one on the first alone."""

    task: str
    protocol: str
    target: PositiveFloat


class Yardsticks(Part):
    """All yardsticks of a task."""

    task: str
    protocol: str
    target: PositiveFloat


class Gramian(Part):
    """The inner products of float32 gradients against one product of theirs."""

    target: PositiveFloat
    tasks: list[PositiveInt]
    parameters: list[PositiveInt]


class Start(Part):
    """From the start of ``mtlbench run`` to its first step, against importing torch."""

    task: str
    target: PositiveFloat


class EnginePlan(Plan):
    """What is measured: the contents of ``engine.yaml``."""

    file: ClassVar[str] = "engine.yaml"

    networks: list[CNN]
    tasks: list[str]
    plain: Plain
    wrapped: Wrapped
    loss_based: LossBased
    heads: list[Heads]
    gramian: Gramian
    start: list[Start]
    yardsticks: list[Yardsticks]


def cases(plan: EnginePlan, device: torch.device) -> Iterator[Case]:
    """The cases of a plan, in the order of the table."""
    builders = {size.name: partial(cnn, size, plan.seed, device) for size in plan.networks}
    builders |= {name: partial(benchmark, name, plan.seed, device) for name in plan.tasks}
    methods = [*_infos()] if plan.plain.methods is None else plan.plain.methods
    for name, build in builders.items():
        for method in methods:
            prepare = partial(_against_hand_written, build, method)
            yield Case(f"{name}: {method}", plan.plain.target, prepare)
        for sharpness in plan.wrapped.sharpness:
            for method in plan.wrapped.methods:
                prepare = partial(_against_passes, build, method, sharpness)
                yield Case(f"{name}: {method} x {sharpness}", plan.wrapped.target, prepare)
    for name in plan.loss_based.networks:
        if name not in builders:
            raise UsageError(f"the plan has no network {name!r}; valid: {', '.join(builders)}")
        for method in _loss_based():
            prepare = partial(_against_baseline, builders[name], method)
            yield Case(f"{name}: {method} over {baseline()}", plan.loss_based.target, prepare)
    for each in plan.heads:
        work = partial(benchmark, each.task, plan.seed, device, each.protocol)
        title = f"{each.task} {each.protocol}: all heads"
        yield Case(title, each.target, partial(_against_one_head, work))
    for begun in plan.start:
        prepare = partial(Contest, partial(first_step, begun.task), [import_torch])
        yield Case(f"{begun.task}: start to first step", begun.target, prepare)
    for K, P in product(plan.gramian.tasks, plan.gramian.parameters):
        prepare = partial(_against_one_product, K, P, plan.seed, device)
        yield Case(f"gramian: K={K}, P={P}", plan.gramian.target, prepare)
    for entry in plan.yardsticks:
        with seeded(plan.seed):
            pairs = yardsticks(find_task(entry.task, entry.protocol)) or {}
        for name, (ours, reference) in pairs.items():
            title = f"{entry.task} {entry.protocol}: {name}"
            yield Case(title, entry.target, partial(Contest, ours, [reference]))


def _loss_based() -> list[str]:
    infos = _infos().items()
    return [n for n, info in infos if info.backwards == "one" and info.role == "method"]


def _infos() -> dict[str, MethodInfo]:
    """Of the methods that have a hand-written step."""
    infos = {name: METHODS.get(name).info for name in METHODS.names()}
    return {name: info for name, info in infos.items() if not info.further}


def _against_hand_written(build: Callable[[], Workload], method: str) -> Contest:
    work = build()
    step = work.stepper(method, SHARPNESS.default).step
    return Contest(partial(step, work.batch, work.loss), [HandWritten(work, method)])


def _against_passes(build: Callable[[], Workload], method: str, sharpness: str) -> Contest:
    work = build()
    step = work.stepper(method, sharpness).step
    return Contest(partial(step, work.batch, work.loss), passes(work, method, sharpness))


def _against_baseline(build: Callable[[], Workload], method: str) -> Contest:
    """A method's step against the baseline's, and the forward passes that only the method has."""
    work = build()
    step, plain = (work.stepper(m, SHARPNESS.default).step for m in (method, baseline()))
    forward = partial(run_pass, HandWritten(work, method), Pass(None, graph=False, training=True))
    further = [forward] * METHODS.get(method).info.extra_forwards
    return Contest(
        partial(step, work.batch, work.loss), [partial(plain, work.batch, work.loss), *further]
    )


def _against_one_product(K: int, P: int, seed: int, device: torch.device) -> Contest:
    rows = torch.randn(K, P, generator=torch.Generator().manual_seed(seed)).to(device)
    return Contest(partial(inner_products, rows), [lambda: rows @ rows.T])


def _against_one_head(build: Callable[[], Workload]) -> Contest:
    work, off = build(), SHARPNESS.default
    every = work.stepper(baseline(), off)
    first = work.stepper(baseline(), off, every.objectives[:1])
    ours, alone = (partial(s.step, work.batch, work.loss) for s in (every, first))
    return Contest(ours, [alone])
