"""``mtlbench bench ranks``: steps on several processes, and what they send."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from pydantic import PositiveInt
from torch.multiprocessing.spawn import spawn

from mtlbench.bench.plan import Plan
from mtlbench.bench.workloads import CNN, Workload, cnn
from mtlbench.data.parts import parted
from mtlbench.engine.reduce import ALONE, ProcessRanks, Ranks
from mtlbench.engine.stream import RowsMode
from mtlbench.hardware import torch_threads
from mtlbench.runs.crew import BACKENDS, check_device, place

MOST_STEPS = 400
WARM = 3
"""Steps before those that are timed."""


class RanksPlan(Plan):
    """What is measured: the contents of ``ranks.yaml``."""

    file: ClassVar[str] = "ranks.yaml"

    network: CNN
    ranks: list[PositiveInt]
    methods: list[str]
    sharpness: list[str]
    sharded: list[str]


@dataclass(frozen=True)
class RanksCase:
    """Steps of a kind on so many processes.

    Args:
        name: unique.
        build: makes the workload on a device.
        method: its name and options.
        sharpness: likewise.
        rows: see :class:`~mtlbench.training.stepper.Stepper`.
        size: number of processes.
    """

    name: str
    build: Callable[[torch.device], Workload]
    method: str
    sharpness: str
    rows: RowsMode
    size: int


@dataclass(frozen=True)
class RanksRow:
    """A measured case."""

    case: str
    method: str
    sharpness: str
    rows: str
    ranks: int
    n_tasks: int
    n_parameters: int
    """Shared ones, P."""
    ms: float
    """Median of the steps, on the first process."""
    calls: float
    """Collectives of a step."""
    sent_mb: float
    """MB that a process sends in a step, as a ring of processes sends sums."""
    sums: float
    """The same in sums of P numbers; a step of plain descent takes one."""
    steps: int


def cases(plan: RanksPlan) -> Iterator[RanksCase]:
    """The cases of a plan, in the order of the table."""
    build = partial(cnn, plan.network, plan.seed)
    for method, sharpness in product(plan.methods, plan.sharpness):
        ways: list[RowsMode] = ["whole", "sharded"] if method in plan.sharded else ["whole"]
        for rows, size in product(ways, plan.ranks):
            if size > 1 or rows == "whole":
                name = f"{plan.network.name}: {method} x {sharpness}, {rows}, {size}"
                yield RanksCase(name, build, method, sharpness, rows, size)


def measured(
    case: RanksCase, *, rounds: int, seconds: float, device: torch.device, threads: int
) -> RanksRow:
    """Time a case.

    Raises:
        UsageError: there are fewer GPUs than processes, or the device is of another kind.
    """
    check_device(device.type, case.size)
    with TemporaryDirectory() as folder:
        given = (Path(folder), case, rounds, seconds, device.type, threads)
        if case.size == 1:
            found = _steps(case, ALONE, rounds, seconds, device)
        else:
            spawn(_work, given, nprocs=case.size)
            found = json.loads(Path(folder, "found").read_text())
    return RanksRow(
        case=case.name,
        method=case.method,
        sharpness=case.sharpness,
        rows=case.rows,
        ranks=case.size,
        **found,
    )


def _work(
    rank: int,
    folder: Path,
    case: RanksCase,
    rounds: int,
    seconds: float,
    kind: str,
    threads: int,
) -> None:
    """One of the processes; the first writes what it finds."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device(place(kind, rank))
    dist.init_process_group(
        BACKENDS[kind],
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=case.size,
    )
    with torch_threads(threads):
        found = _steps(case, ProcessRanks(), rounds, seconds, device)
    if rank == 0:
        (folder / "found").write_text(json.dumps(found))
    dist.destroy_process_group()


def _steps(
    case: RanksCase, ranks: Ranks, rounds: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Times of steps, and what they send."""
    work = case.build(device)
    (batch,) = parted([work.batch], ranks.rank, ranks.size)
    stepper = work.stepper(case.method, case.sharpness, rows=case.rows, ranks=ranks)

    def step() -> float:
        begun = time.perf_counter()
        stepper.step(batch, work.loss)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - begun)

    warm = [step() for _ in range(WARM)]
    fitting = int(1000 * seconds / max(min(warm), 1e-3))
    n_steps: int = ranks.gather(min(MOST_STEPS, max(rounds, fitting)))[0]
    calls, elements = ranks.calls, ranks.elements
    times = torch.tensor([step() for _ in range(n_steps)])
    calls, elements = ranks.calls - calls, (ranks.elements - elements) / n_steps
    flat = stepper.flat
    whole = 2 * (ranks.size - 1) / ranks.size * flat.shared.stop
    return {
        "n_tasks": len(flat.all_heads),
        "n_parameters": flat.shared.stop,
        "ms": float(times.median()),
        "calls": calls / n_steps,
        "sent_mb": elements * flat.data.element_size() / 1e6,
        "sums": elements / whole if whole else 0.0,
        "steps": n_steps,
    }
