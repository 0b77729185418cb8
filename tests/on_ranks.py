"""What the processes of ``tests/test_ranks.py`` do: steps on parts of a batch, and the same steps
alone."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, ProcessRanks, Stepper
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.interfaces import Batch, Loss

N, STEPS = 11, 3
LIMIT = 100.0
"""Seconds that the processes of a test may take."""
STALLED = 30.0
"""Seconds that a process waits for the others."""

Job = Callable[[Ranks], Any]


# -------------------------------------------------------------------------------------- processes
def _work(rank: int, size: int, folder: Path, limit: float, job: Job) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=limit),
        )
        found = job(ProcessRanks())
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # the others are not waited for
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def on_ranks(job: Job, folder: Path, size: int = 2, limit: float = STALLED) -> list[Any]:
    """What each of ``size`` processes finds; its traceback, where it failed or was stopped.

    Args:
        job: a function of a module, or a partial of one.
        folder: an empty one.
        size: number of processes.
        limit: seconds that a process waits for the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    every = [
        context.Process(target=_work, args=(rank, size, folder, limit, job)) for rank in range(size)
    ]
    for process in every:
        process.start()
    until = time.monotonic() + LIMIT
    for process in every:
        process.join(max(until - time.monotonic(), 0.1))
        if process.is_alive():
            process.kill()
            process.join()
    found: list[Any] = []
    for rank, process in enumerate(every):
        error, result = folder / f"{rank}.error", folder / f"{rank}.json"
        if result.exists():
            found.append(json.loads(result.read_text()))
        else:
            found.append(error.read_text() if error.exists() else f"ended: {process.exitcode}")
    return found


# ------------------------------------------------------------------------------- what is trained on
def model(K: int, dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        return MultiTaskModel(trunk, {f"t{k}": nn.Linear(5, 2) for k in range(K)}).to(dtype)


def loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean() * (1 + 3 * int(objective[1:]))


def cut(n: int, size: int) -> list[slice]:
    """Uneven parts of ``n`` examples."""
    edges = [0, *(min(n, 2 + (i + 1) * n // size) for i in range(size - 1)), n]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def part(group: InputGroup, span: slice) -> InputGroup:
    return InputGroup(group.inputs[span], {n: t[span] for n, t in group.targets.items()})


def batches(
    kind: str, K: int, dtype: torch.dtype, size: int, seed: int = 7
) -> Iterator[tuple[Batch, list[Batch]]]:
    """For each step the whole batch, and the processes' parts of it."""
    g = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    parts = cut(N, size)
    for step in range(STEPS):
        if kind == "multi":  # the second process has no group of the first task
            groups = [InputGroup(drawn(N, 4), {f"t{k}": drawn(N, 2)}) for k in range(K)]
            others = [rank for rank in range(size) if rank != 1]
            mine: list[list[InputGroup]] = [[] for _ in range(size)]
            for k, group in enumerate(groups):
                spans = parts if k else cut(N, size - 1)
                for rank, span in zip(others if not k else range(size), spans, strict=True):
                    mine[rank].append(part(group, span))
            yield groups, list(mine)
            continue
        targets = {f"t{k}": drawn(N, 2) for k in range(K)}
        inputs = drawn(N, 4)
        if kind == "partial":
            for k, t in enumerate(targets.values()):
                t[torch.rand(N, generator=g) < 0.4] = torch.nan
                t[0 if k else 1] = 0.3
                if k == 0:
                    t[parts[1]] = torch.nan  # the second process lacks the first task
                if k == K - 1 and step == 1:
                    t[:] = torch.nan  # nobody has the last one
        group = InputGroup(inputs, targets)
        alone = kind == "alone" and step == 2  # the last batch is on the first process
        spans = [slice(0, N), *[None] * (size - 1)] if alone else list(parts)
        yield [group], [[part(group, s)] if s is not None else [] for s in spans]


# ------------------------------------------------------------------------------------- both ways
def states(stepper: Stepper) -> dict[str, Tensor]:
    """All that a step leaves behind, by name."""
    found = {n: t.clone() for n, t in stepper.model.state_dict().items()}
    for i, module in enumerate([*stepper.methods, stepper.wrapper]):
        for n, value in module.state_dict().items():
            if isinstance(value, Tensor):
                found[f"{i}.{n}"] = value.clone()
        for n, value in vars(module).items():
            if isinstance(value, torch.optim.Optimizer):
                for j, kept in enumerate(value.state.values()):
                    found |= {f"{i}.{n}.{j}.{a}": b.clone() for a, b in kept.items()}
    return found


def train(
    method: str,
    wrapper: str,
    ranks: Ranks,
    *,
    size: int = 2,
    K: int = 3,
    kind: str = "partial",
    dtype: torch.dtype = torch.float64,
    loss: Loss = loss,
    made: Callable[[int, torch.dtype], MultiTaskModel] = model,
    adam: bool = False,
    spoil: Callable[[int, list[Batch]], None] = lambda step, mine: None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Three steps: what is left behind and was seen, and why steps were skipped.

    Args:
        method: name and options.
        wrapper: name and options.
        ranks: which processes train.
        size: whose parts they would be.
        K: number of tasks.
        kind: of batches.
        dtype: of parameters and inputs.
        loss: of a task.
        made: makes the network.
        adam: instead of descent with momentum.
        spoil: changes the parts of a step's batch.
    """
    net = made(K, dtype)
    beside = list(loss.parameters()) if isinstance(loss, nn.Module) else []
    every = [*net.parameters(), *beside]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(every, 0.05, momentum=0.9)
    if adam:
        optimizer = torch.optim.Adam(every, 1e-2)
    stepper = Stepper(net, optimizer, method, wrapper, seed=3, clip_norm=0.5, ranks=ranks)
    others = [
        batches("full", K, dtype, size, seed=8 + i) for i in range(stepper.n_further)
    ]  # their labels are complete
    seen, skipped = [], []
    for step, (whole, mine) in enumerate(batches(kind, K, dtype, size)):
        spoil(step, mine)
        further = [next(other) for other in others]
        report = stepper.step(
            whole if ranks.size == 1 else mine[ranks.rank],
            loss,
            [w if ranks.size == 1 else m[ranks.rank] for w, m in further],
        )
        skipped.append(report.skipped)
        if report.losses is not None:
            seen.append(report.losses.nan_to_num(-1.0))
            stepper.on_epoch_end(9 + step, report.losses.nan_to_num(1.0))
        if report.weights is not None:
            seen.append(report.weights)
    left = states(stepper) | {f"beside.{i}": p.detach().clone() for i, p in enumerate(beside)}
    return left | {"seen": torch.cat([t.double() for t in seen])}, skipped


def gap(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The greatest difference, relative to what is greater than 1."""
    if found.keys() != wanted.keys():
        return float("inf")
    worst = 0.0
    for name, t in found.items():
        a, b = t.double(), wanted[name].double()
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            difference = float(((a - b).abs() / b.abs().max().clamp_min(1.0)).max())
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def compare(cases: Sequence[dict[str, Any]], ranks: Ranks) -> list[float]:
    """For each case how far the processes are from one alone."""
    gaps = []
    for case in cases:
        options = dict(case) | {"size": ranks.size}
        options["dtype"] = getattr(torch, options.get("dtype", "float64"))
        try:
            alone, why = train(**options, ranks=ALONE)
        except Exception as error:
            raise AssertionError(f"{case}, alone") from error
        try:
            found, reasons = train(**options, ranks=ranks)
        except Exception as error:
            raise AssertionError(f"{case}") from error
        gaps.append(gap(found, alone) if why == reasons else float("inf"))
    return gaps
