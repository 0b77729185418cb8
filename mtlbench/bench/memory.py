"""``mtlbench bench memory``: what steps hold at a time, on a whole Jacobian and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtlbench.bench.peak import peak_memory
from mtlbench.bench.peers import PEERS, MakeStep, installed
from mtlbench.bench.plan import Part, Plan
from mtlbench.bench.timing import quartiles, ratio, time_rounds
from mtlbench.bench.workloads import CNN, Vision, Workload, benchmark, cnn, vision
from mtlbench.interfaces import InputGroup
from mtlbench.registry import SHARPNESS
from mtlbench.torch_private import tree_map

STEPS = 3
OPTIMIZER = "SGD"
"""It holds nothing beside the gradient."""


class Examples(Part):
    """A task's network with a protocol, on a part of its first batch."""

    task: str
    protocol: str
    examples: PositiveInt


class Methods(Part):
    """Methods and what they may hold at a time, in Jacobians; with a wrapper as "M x W"."""

    network: CNN
    most: Mapping[str, PositiveFloat]


class MemoryPlan(Plan):
    """What is measured: the contents of ``memory.yaml``."""

    file: ClassVar[str] = "memory.yaml"

    method: str
    networks: list[Vision]
    tasks: list[Examples]
    methods: Methods


@dataclass(frozen=True)
class MemoryCase:
    """Steps of one kind on a network.

    Args:
        name: unique.
        build: makes the workload.
        step: makes what is measured from the workload; each call is a step.
        whole: the same on the whole Jacobian.
        most: bound of what is held, in Jacobians; None where nothing is demanded.
    """

    name: str
    build: Callable[[], Workload]
    step: MakeStep
    whole: MakeStep
    most: float | None = None


@dataclass(frozen=True)
class MemoryRow:
    """A measured case; times are medians over the rounds, of ratios those of single rounds."""

    case: str
    n_tasks: int
    n_parameters: int
    """Shared ones."""
    ms: float
    to_whole: float
    """Ratio to a step on the whole Jacobian."""
    to_whole_cpu: float
    """The same ratio of this process's CPU time, which other processes disturb less."""
    memory_mb: float | None
    """See :func:`peak_memory`: the network, its gradients, the first steps."""
    jacobians: float | None
    """What of it is neither parameters nor their gradients, in K P numbers."""
    most: float | None
    met: bool | None
    rounds: int


def cases(plan: MemoryPlan, device: torch.device) -> Iterator[MemoryCase]:
    """The cases of a plan, in the order of the table."""
    builders: dict[str, Callable[[], Workload]] = {
        size.name: partial(vision, size, plan.seed, device) for size in plan.networks
    }
    builders |= {
        f"{t.task} {t.protocol}": partial(_examples, t, plan.seed, device) for t in plan.tasks
    }
    whole = partial(_ours, plan.method, "whole")
    ways: dict[str, MakeStep] = {
        "whole": whole,
        "streamed": partial(_ours, plan.method, "streamed"),
        **(PEERS if installed() else {}),
    }
    for name, build in builders.items():
        for way, step in ways.items():
            yield MemoryCase(f"{name}: {way}", build, step, whole)
    network = plan.methods.network
    for name, most in plan.methods.most.items():
        step = partial(_ours, name, "whole")
        build = partial(cnn, network, plan.seed, device)
        yield MemoryCase(f"{network.name}: {name}", build, step, step, most)


def _examples(of: Examples, seed: int, device: torch.device) -> Workload:
    work = benchmark(of.task, seed, device, of.protocol)

    def first(leaf: Any) -> Any:
        return leaf[: of.examples] if isinstance(leaf, Tensor) else leaf

    batch = [InputGroup(tree_map(first, g.inputs), tree_map(first, g.targets)) for g in work.batch]
    return replace(work, batch=batch)


def _ours(pair: str, rows: Any, work: Workload) -> Callable[[], object]:
    method, _, sharpness = pair.partition(" x ")
    stepper = work.stepper(method, sharpness or SHARPNESS.default, rows=rows)
    return partial(stepper.step, work.batch, work.loss)


def measured(case: MemoryCase, *, rounds: int, seconds: float, device: torch.device) -> MemoryRow:
    """Time a case and see how much memory it takes."""
    work = replace(case.build(), optimizer=OPTIMIZER, options={})
    model = work.build()
    shared, _ = model.parameter_roles(list(model.heads))
    K, P = len(model.heads), sum(p.numel() for p in shared)
    size = shared[0].element_size()
    resting = 2 * size * sum(p.numel() for p in model.parameters())
    del model, shared
    memory = peak_memory(partial(_first_steps, case, work), device)
    sides: Sequence[list[Callable[[], object]]] = [[case.step(work)], [case.whole(work)]]
    ours, whole = time_rounds(sides, rounds=rounds, seconds=seconds, device=device)
    held = None if memory is None else (memory * 2**20 - resting) / (K * P * size)
    return MemoryRow(
        case=case.name,
        n_tasks=K,
        n_parameters=P,
        ms=quartiles(ours.wall)[1],
        to_whole=ratio(ours.wall, whole.wall),
        to_whole_cpu=ratio(ours.cpu, whole.cpu),
        memory_mb=memory,
        jacobians=held,
        most=case.most,
        met=None if case.most is None or held is None else held <= case.most,
        rounds=len(ours.wall),
    )


def _first_steps(case: MemoryCase, work: Workload) -> None:
    """Build everything but the batch, and train."""
    step = case.step(work)
    for _ in range(STEPS):
        step()
