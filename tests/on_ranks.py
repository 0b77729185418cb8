"""What the processes of ``tests/test_ranks.py`` do: steps on parts of a batch, and the same steps
alone."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from mtlbench import (
    InputGroup,
    MultiTaskModel,
    ProcessRanks,
    Stepper,
    UsageError,
)
from mtlbench.engine import overlap
from mtlbench.engine.reduce import ALONE, Ranks, Shares
from mtlbench.engine.stream import RowsMode
from mtlbench.interfaces import Batch, JointLoss, Loss
from mtlbench.testing.steps import Descent

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
        spans = [slice(0, N), *[slice(0, 0)] * (size - 1)] if alone else parts
        yield [group], [[part(group, s)] if s.stop or not alone else [] for s in spans]


class Tempered(nn.Module):
    """A loss with a parameter a task."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterDict(
            {f"t{k}": nn.Parameter(torch.tensor(1.0 + k, dtype=torch.float64)) for k in range(3)}
        )

    def forward(self, objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        factor: Tensor = self.factors[objective]
        return factor.square() * loss(objective, prediction, target) - factor


class Valid:
    """A mean over the entries that are not zero."""

    def __call__(self, objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        valid = target != 0
        off = torch.where(valid, (prediction - target).abs(), 0).sum()
        return off / valid.sum().clamp(min=1)


class SizedValid(Valid):
    """The same, which says so."""

    def size(self, objective: str, target: Tensor) -> float:
        return int((target.nan_to_num() != 0).sum())


class Summed:
    """A sum over the examples."""

    def __call__(self, objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum()

    def size(self, objective: str, target: Tensor) -> None:
        return None


class Rooted(Summed):
    """No mean and no sum."""

    def size(self, objective: str, target: Tensor) -> None:
        raise UsageError(f"the loss of {objective} is the root of a mean: it has no parts")


class Joint(JointLoss):
    """All losses at once."""

    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([loss(n, p, targets[n]) for n, p in predictions.items()])


def gaps_in_targets(step: int, whole: Batch, mine: list[Batch]) -> None:
    """Entries that are zero, more of them on one process."""
    for group in [*whole, *itertools.chain(*mine)]:
        for t in group.targets.values():
            t[(t > 0.2) & ~t.isnan()] = 0


def infinite_on_one(step: int, whole: Batch, mine: list[Batch]) -> None:
    """The second step has an infinite input, on the second process alone."""
    if step == 1:
        for groups in (whole, mine[1]):
            groups[0].inputs[-1] = torch.inf


class SynchronisedNorm(nn.BatchNorm1d):
    """What ``nn.SyncBatchNorm`` does, which refuses the CPU."""

    on = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        found = torch.cat([x.sum(0), x.square().sum(0), x.new_tensor([len(x)])])
        if SynchronisedNorm.on:
            found = all_reduce(found)
        n, C = found[-1], x.shape[1]
        mean, var = found[:C] / n, found[C:-1] / n - (found[:C] / n) ** 2
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), 0.1)
                self.running_var.lerp_(var.detach() * n / (n - 1), 0.1)
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias


def normalised(K: int, dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    """With normalisation over the whole batch in the trunk."""
    net = model(K, dtype)
    net.shared = nn.Sequential(
        nn.Linear(4, 6), SynchronisedNorm(6), *list(net.shared.children())[1:]
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in net.shared.parameters():
            nn.init.normal_(p)
    return net.to(dtype)


class Routed(MultiTaskModel):
    """A part of the trunk for each task, and a penalty on what is shared."""

    def features(
        self,
        inputs: Any,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> Any:
        first = self.shared.get_submodule("0")(inputs)
        found = {}
        for name in objectives:
            before_part(name)
            found[name] = self.shared.get_submodule(f"1.{name}")(first)
        return found

    def penalty(self, features: Any, objective: str) -> Tensor:
        return 0.1 * self.shared.get_parameter("0.0.weight").square().sum()


class Own(nn.Module):
    """A head that reads what the trunk made for it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.layer = name, nn.Linear(5, 2)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = self.layer(features[self.name])
        return found


def routed(K: int, dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    """Parts of the trunk for each task, which count as its head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        common = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        parts = nn.ModuleDict({f"t{k}": nn.Linear(6, 5) for k in range(K)})
        heads = {f"t{k}": Own(f"t{k}") for k in range(K)}
        return Routed(nn.ModuleList([common, parts]), heads, own=dict(parts.items())).to(dtype)


# ------------------------------------------------------------------------------------- both ways
_squared = loss


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
    loss: Callable[[], Loss] | None = None,
    made: Callable[[int, torch.dtype], MultiTaskModel] = model,
    adam: bool | None = False,
    spoil: Callable[[int, Batch, list[Batch]], None] | None = None,
    rows: RowsMode = "auto",
    slices: bool = False,
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
        loss: makes the loss.
        made: makes the network.
        adam: instead of descent with momentum; None for descent without, which is soon imported.
        spoil: changes a step's batch and its parts.
        rows: of the processes; one alone has them whole.
        slices: whether every parameter is sent by itself.
    """
    net = made(K, dtype)
    SynchronisedNorm.on = ranks.size > 1
    judge: Loss = _squared if loss is None else loss()
    beside = list(judge.parameters()) if isinstance(judge, nn.Module) else []
    every = [*net.parameters(), *beside]
    optimizer: torch.optim.Optimizer = Descent(net, 0.05)
    if adam is not None:
        adaptive, descent = torch.optim.Adam, torch.optim.SGD
        optimizer = adaptive(every, 1e-2) if adam else descent(every, 0.05, momentum=0.9)
    held: RowsMode = rows if ranks.size > 1 else "whole"
    with patch.object(overlap, "SLICE", 1 if slices else overlap.SLICE):
        stepper = Stepper(
            net, optimizer, method, wrapper, seed=3, clip_norm=0.5, ranks=ranks, rows=held
        )
    others = [
        batches("full", K, dtype, size, seed=8 + i) for i in range(stepper.n_further)
    ]  # their labels are complete
    seen, skipped = [], []
    for step, (whole, mine) in enumerate(batches(kind, K, dtype, size)):
        if spoil is not None:
            spoil(step, whole, mine)
        further = [next(other) for other in others]
        report = stepper.step(
            whole if ranks.size == 1 else mine[ranks.rank],
            judge,
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


# ------------------------------------------------------------------------------------ other jobs
class LeavingOut(ProcessRanks):
    """Processes that sum nothing in one function of the engine, and otherwise as ever."""

    def __init__(self, place: str) -> None:
        self.place = place
        super().__init__()

    def _here(self) -> bool:
        return sys._getframe(2).f_code.co_qualname == self.place

    @property
    def rank(self) -> int:
        return 0 if self._here() else self._rank

    @rank.setter
    def rank(self, value: int) -> None:
        self._rank = value

    def total(self, values: Sequence[float]) -> list[float]:
        return list(values) if self._here() else super().total(values)

    def sum(self, small: Tensor) -> Tensor:
        return small if self._here() else super().sum(small)

    def sum_(self, *tensors: Tensor) -> None:
        if not self._here():
            super().sum_(*tensors)

    def start_(self, tensor: Tensor) -> None:
        if not self._here():
            super().start_(tensor)

    def start_parts_(self, vector: Tensor) -> None:
        if not self._here():
            super().start_parts_(vector)

    def spread_(self, vector: Tensor) -> None:
        if not self._here():
            super().spread_(vector)


def differs_without(place: str, case: dict[str, Any], ranks: Ranks) -> bool:
    """Whether the processes are not what one is, if nothing is summed in ``place``."""
    alone, _ = train(**case, ranks=ALONE)
    weighted = Shares.weighted

    def whole(self: Shares, losses: Sequence[Tensor], objectives: Sequence[str]) -> list[Tensor]:
        here = sys._getframe(1).f_code.co_qualname == place
        return list(losses) if here else weighted(self, losses, objectives)

    setattr(Shares, "weighted", whole)  # noqa: B010
    try:
        found, _ = train(**case, ranks=LeavingOut(place))
    except Exception:
        return True  # the others wait for what never comes
    return gap(found, alone) > 1e-9


def started(told: Sequence[str], ranks: Ranks) -> str:
    """What a process is told whose method is its own one of ``told``."""
    net = model(2)
    try:
        Stepper(net, torch.optim.SGD(net.parameters(), 0.1), told[ranks.rank], ranks=ranks)
    except UsageError as error:
        return str(error)
    return ""


def same_numbers(ranks: Ranks) -> list[float]:
    """Parameters and buffers that started as others, after a stepper was made."""
    net = normalised(2)
    with torch.no_grad():
        for t in [*net.parameters(), *net.buffers()]:
            t.add_(ranks.rank)
    Stepper(net, torch.optim.SGD(net.parameters(), 0.1), "ls", ranks=ranks)
    return [float(t.sum()) for t in [*net.parameters(), *net.buffers()]]


def lost(how: str, ranks: Ranks) -> str:
    """What a process finds whose other one dies, or stalls, before the second step."""
    net = model(3)
    stepper = Stepper(net, torch.optim.SGD(net.parameters(), 0.1), "mgda", ranks=ranks)
    for step, (_, mine) in enumerate(batches("full", 3, torch.float64, ranks.size)):
        if step == 1 and ranks.rank == 1:
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(STALLED)
        try:
            stepper.step(mine[ranks.rank], _squared)
        except RuntimeError as error:
            return f"{type(error).__name__} in step {step}"
    return ""


def volumes(
    pairs: Sequence[tuple[str, str]], ranks: ProcessRanks, rows: RowsMode = "auto"
) -> list[list[float]]:
    """For each pair the collectives of a third step, and how often it sends the shared
    parameters' size, as sums of all processes do."""
    found = []
    for method, wrapper in pairs:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh())
        net = MultiTaskModel(trunk, {f"t{k}": nn.Linear(400, 2) for k in range(3)}).double()
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        stepper = Stepper(net, optimizer, method, wrapper, ranks=ranks, rows=rows)
        for _, mine in batches("full", 3, torch.float64, ranks.size):
            calls, elements = ranks.calls, ranks.elements
            stepper.step(mine[ranks.rank], _squared)
        sent = (ranks.elements - elements) / (2 * (ranks.size - 1) / ranks.size)
        found.append([ranks.calls - calls, sent / stepper.flat.shared.stop])
    return found
