"""``mtlbench bench``: what the library's own work costs, as ratios measured in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.errors import UsageError
from mtlbench.hardware import describe, pick_device, synchronize
from mtlbench.interfaces import Batch, InputGroup, Loss, Task, Update
from mtlbench.leaderboard import write_csv
from mtlbench.model import MultiTaskModel
from mtlbench.problem import StepProblem
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec
from mtlbench.results import check_writable
from mtlbench.step import Stepper, train_step
from mtlbench.trainer import seeded
from mtlbench.views import DenseView, Forward

bench_app = typer.Typer(help="Measure what the library's own work costs.", no_args_is_help=True)
console = Console()

WARM_UP_ROUNDS = 2
MOST_ROUNDS = 400
LEARNING_RATE = 1e-5  # the last round meets the same gradients as the first
DEFAULT_OPTIMIZER = "Adam"
CLASSES = 2


# ------------------------------------------------------------------------------------ the plan
class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CNN(_Part):
    """A made-up network: two 3 x 3 convolutions a width, halving the image after each width."""

    name: str
    widths: list[PositiveInt]
    features: PositiveInt
    image: PositiveInt
    batch: PositiveInt
    tasks: PositiveInt


class Plain(_Part):
    """Methods without a wrapper; all registered ones if there is no list."""

    target: PositiveFloat
    methods: list[str] | None


class Wrapped(_Part):
    """Methods with wrappers."""

    target: PositiveFloat
    methods: list[str]
    sharpness: list[str]


class Yardsticks(_Part):
    """All yardsticks of a task."""

    task: str
    protocol: str
    target: PositiveFloat


class Plan(_Part):
    """What is measured: the contents of ``bench.yaml``."""

    seed: int
    rounds: PositiveInt
    seconds: float
    networks: list[CNN]
    tasks: list[str]
    plain: Plain
    wrapped: Wrapped
    yardsticks: list[Yardsticks]

    @classmethod
    def read(cls, path: Path | None = None) -> Plan:
        """Read a file, by default the one that comes with mtlbench.

        Raises:
            UsageError: the file cannot be read, or is no plan.
        """
        try:
            source = files("mtlbench").joinpath("bench.yaml") if path is None else path
            return cls.model_validate(yaml.safe_load(source.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise UsageError(f"{path} is no plan of a benchmark: {error}") from error


# ------------------------------------------------------------------------------------ timing
@dataclass(frozen=True)
class Contest:
    """Two ways to do the same. The reference's time is the sum over its calls, each timed alone."""

    ours: Callable[[], object]
    reference: Sequence[Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        name: unique.
        target: bound of our time over the reference's.
        prepare: builds what is compared; called when its turn has come.
    """

    name: str
    target: float
    prepare: Callable[[], Contest]


@dataclass(frozen=True)
class Row:
    """A measured case: medians over the rounds, the ratio's of the ratios of single rounds."""

    case: str
    ours_ms: float
    reference_ms: float
    ratio: float
    ratio_low: float
    """Lower quartile of the rounds' ratios."""
    ratio_high: float
    """Upper quartile."""
    cpu_ratio: float
    """The same ratio of this process's CPU time, which other processes disturb less."""
    target: float
    met: bool
    rounds: int


def measure(case: Case, *, rounds: int, seconds: float, device: torch.device) -> Row:
    """Time a case. A round times both sides, in turns first and second.

    Args:
        case: what to time.
        rounds: at least so many.
        seconds: more rounds, as long as this has not passed.
        device: synchronised around every call.
    """

    def run(calls: Sequence[Callable[[], object]]) -> tuple[float, float]:
        """Wall time and CPU time in milliseconds, summed over the calls."""
        wall = cpu = 0.0
        for call in calls:
            synchronize(device)
            start = time.perf_counter(), time.process_time()
            call()
            synchronize(device)
            wall += time.perf_counter() - start[0]
            cpu += time.process_time() - start[1]
        return 1000 * wall, 1000 * cpu

    contest = case.prepare()
    sides = ([contest.ours], contest.reference)
    for _ in range(WARM_UP_ROUNDS):
        for side in sides:
            run(side)
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    with _no_garbage_collection():
        end = time.perf_counter() + seconds
        while (n := len(times[0])) < rounds or (n < MOST_ROUNDS and time.perf_counter() < end):
            for i in (0, 1) if n % 2 else (1, 0):
                times[i].append(run(sides[i]))
    ours, reference = (list(zip(*side, strict=True)) for side in times)
    wall, cpu = ([a / b for a, b in zip(ours[i], reference[i], strict=True)] for i in (0, 1))
    low, ratio, high = statistics.quantiles(wall * 2, n=4, method="inclusive")
    return Row(
        case=case.name,
        ours_ms=statistics.median(ours[0]),
        reference_ms=statistics.median(reference[0]),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        cpu_ratio=statistics.median(cpu),
        target=case.target,
        met=ratio <= case.target,
        rounds=n,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Its pauses would hit one of the two sides."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ------------------------------------------------------------------------------------ networks
@dataclass(frozen=True)
class Workload:
    """What is trained: a network on one batch.

    Args:
        build: makes the network, each time with the same weights.
        batch: to train on.
        loss: see :data:`~mtlbench.interfaces.Loss`.
        optimizer: name of a ``torch.optim`` class.
        device: where all of it is.
    """

    build: Callable[[], MultiTaskModel]
    batch: Batch
    loss: Loss
    optimizer: str
    device: torch.device

    def optimize(self, model: nn.Module) -> Optimizer:
        """A fresh optimizer."""
        made: Optimizer = getattr(torch.optim, self.optimizer)(model.parameters(), lr=LEARNING_RATE)
        return made

    def stepper(self, method: str, sharpness: str) -> Stepper:
        """The library's way to train it."""
        model = self.build()
        return Stepper(model, self.optimize(model), method, sharpness)


def cnn(size: CNN, seed: int, device: torch.device) -> Workload:
    """A made-up network and batch of this size."""
    names = [f"task{k}" for k in range(size.tasks)]

    def build() -> MultiTaskModel:
        layers: list[nn.Module] = []
        before = 3
        with seeded(seed):
            for width in size.widths:
                for _ in range(2):
                    layers += [
                        nn.Conv2d(before, width, 3, padding=1, bias=False),
                        nn.BatchNorm2d(width),
                        nn.ReLU(),
                    ]
                    before = width
                layers.append(nn.MaxPool2d(2))
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            layers += [nn.Linear(before, size.features), nn.ReLU()]
            heads = {name: nn.Linear(size.features, CLASSES) for name in names}
            return MultiTaskModel(nn.Sequential(*layers), heads).to(device)

    noise = torch.Generator().manual_seed(seed)
    images = torch.randn(size.batch, 3, size.image, size.image, generator=noise)
    targets = torch.randint(CLASSES, (size.tasks, size.batch), generator=noise)
    group = InputGroup(images, dict(zip(names, targets, strict=True))).to(device)
    return Workload(build, [group], _cross_entropy, DEFAULT_OPTIMIZER, device)


def _cross_entropy(objective: str, prediction: Any, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(prediction, target)


def benchmark(name: str, seed: int, device: torch.device) -> Workload:
    """A registered task's network with the task's first protocol, on its first training batch."""
    task = _task(name)

    def build() -> MultiTaskModel:
        with seeded(seed):
            return task.build_model(task.protocol.arch).to(device)

    batch = [group.to(device) for group in next(iter(task.batches("train", seed)))]
    return Workload(build, batch, task.loss, task.protocol.optimizer, device)


def _task(name: str, protocol: str | None = None) -> Task:
    protocols = {p.name: p for p in TASKS.get(Spec.parse(name).name).info.protocols}
    wanted = next(iter(protocols)) if protocol is None else protocol
    if wanted not in protocols:
        raise UsageError(f"task {name!r} has no protocol {wanted!r}; valid: {', '.join(protocols)}")
    return TASKS.build(name, protocols[wanted], None)


# ------------------------------------------------------------------------------------ references
class HandWritten:
    """The step that one would write for one method and no wrapper: the engine's yardstick.

    One backward pass, or K into rows that are allocated once; no checks, no lazy views. The
    method's own work is part of it.

    Args:
        work: what to train.
        method: name and options.
    """

    def __init__(self, work: Workload, method: str) -> None:
        self.work, self.model = work, work.build()
        self.objectives = list(self.model.heads)
        self.optimizer = work.optimize(self.model)
        self.shared, self.heads = self.model.parameter_roles(self.objectives)
        self.method = METHODS.build(method, len(self.objectives)).to(work.device)
        self.per_task = self.method.info.backwards == "per-task"
        self.generator = torch.Generator(work.device).manual_seed(0)
        K, P = len(self.objectives), sum(p.numel() for p in self.shared)
        self.jacobian = self.shared[0].new_zeros(K, P)
        self._rows = [_pieces(row, self.shared) for row in self.jacobian]
        self.head_grads = [p[0].new_zeros(sum(q.numel() for q in p)) for p in self.heads]
        self._head_rows = [
            _pieces(vector, params)
            for vector, params in zip(self.head_grads, self.heads, strict=True)
        ]

    def losses(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses of these objectives, by default of all."""
        wanted = self.objectives if only is None else only
        found = {}
        for group in self.work.batch:
            names = [name for name in wanted if name in group.targets]
            if names:
                outputs = self.model(group.inputs, names)
                for name in names:
                    found[name] = self.work.loss(name, outputs[name], group.targets[name])
        return torch.stack([found[name] for name in wanted])

    def backwards(self, losses: Tensor) -> None:
        """K backward passes into the rows."""
        last = len(losses) - 1
        for k, loss in enumerate(losses.unbind()):
            params = [*self.shared, *self.heads[k]]
            grads = torch.autograd.grad(loss, params, retain_graph=k < last, materialize_grads=True)
            torch._foreach_copy_([*self._rows[k], *self._head_rows[k]], grads)

    def aggregate(self, losses: Tensor) -> Update:
        """The method on the rows."""
        view = DenseView(losses, self.jacobian, self.head_grads, self.generator)
        return self.method.aggregate(view)

    def weights(self, losses: Tensor) -> Tensor:
        """The method on the losses alone."""
        return self.method.weights(DenseView(losses, self.jacobian, [], self.generator))

    def write(self, update: Update) -> None:
        """Give the optimizer its gradients."""
        groups = zip([self.shared, *self.heads], [update.shared, *update.heads], strict=True)
        for params, vector in groups:
            for p, piece in zip(params, _pieces(vector, params), strict=True):
                p.grad = piece

    def __call__(self) -> None:
        """One step."""
        losses = self.losses()
        if self.per_task:
            self.backwards(losses)
            self.write(self.aggregate(losses.detach()))
        else:
            weights = self.weights(losses.detach())
            self.optimizer.zero_grad()
            (weights * losses).sum().backward()
        self.optimizer.step()
        self.method.after_step(torch.no_grad()(self.losses))


def _pieces(vector: Tensor, params: Sequence[nn.Parameter]) -> list[Tensor]:
    pieces = vector.split([p.numel() for p in params])
    return [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]


@dataclass
class Pass:
    """A forward pass and the backward passes through its graph.

    Args:
        objectives: whose losses; None for all.
        graph: whether gradients are recorded.
        training: mode of the network.
        backward: how many backward passes.
    """

    objectives: Sequence[str] | None
    graph: bool
    training: bool
    backward: int = 0


class TracedProblem(StepProblem):
    """Notes its passes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._trace: list[Pass] = []
        self._counted = replace(self.passes)

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        self.trace()
        self._trace.append(Pass(only, torch.is_grad_enabled(), self.model.training))
        return super().forward(only)

    def trace(self) -> list[Pass]:
        """The passes so far; a backward pass goes with the last forward pass that kept a graph."""
        if self.passes.head_backward:
            raise UsageError("backward passes through heads alone cannot be timed alone")
        if backward := self.passes.backward - self._counted.backward:
            next(p for p in reversed(self._trace) if p.graph).backward += backward
        self._counted = replace(self.passes)
        return self._trace


def passes(work: Workload, method: str, sharpness: str) -> list[Callable[[], object]]:
    """What a step with a wrapper cannot do without: its passes, the method on what they yield, the
    optimizer's step. Found by tracing the first step."""
    stepper = work.stepper(method, sharpness)
    problem = TracedProblem(
        stepper.model, stepper.flat, work.batch, stepper.objectives, work.loss, stepper.generator
    )
    train_step(problem, stepper.methods, stepper.wrapper, stepper.optimizer)
    trace = problem.trace()

    training, evaluating, updating = (HandWritten(work, method) for _ in range(3))
    evaluating.model.eval()
    updating.backwards(updating.losses())
    losses = updating.losses().detach()
    updating.write(updating.aggregate(losses))
    calls: list[Callable[[], object]] = [
        partial(run_pass, training if p.training else evaluating, p) for p in trace
    ]
    rows = any(p.backward > 1 or (p.backward and p.objectives) for p in trace)
    method_alone = updating.aggregate if rows else updating.weights
    calls += [partial(method_alone, losses)] * stepper.wrapper.parts
    return [*calls, updating.optimizer.step]


def run_pass(hand: HandWritten, p: Pass) -> None:
    """One pass of a trace, on a network of its own."""
    with torch.set_grad_enabled(p.graph):
        losses = hand.losses(p.objectives)
    if p.backward > 1:
        hand.backwards(losses)
    elif p.backward:
        hand.optimizer.zero_grad()
        losses.sum().backward()


# ------------------------------------------------------------------------------------ cases
def cases(plan: Plan, device: torch.device) -> Iterator[Case]:
    """The cases of a plan, in the order of the table."""
    builders = {size.name: partial(cnn, size, plan.seed, device) for size in plan.networks}
    builders |= {name: partial(benchmark, name, plan.seed, device) for name in plan.tasks}
    methods = METHODS.names() if plan.plain.methods is None else plan.plain.methods
    for name, build in builders.items():
        for method in methods:
            prepare = partial(_against_hand_written, build, method)
            yield Case(f"{name}: {method}", plan.plain.target, prepare)
        for sharpness in plan.wrapped.sharpness:
            for method in plan.wrapped.methods:
                prepare = partial(_against_passes, build, method, sharpness)
                yield Case(f"{name}: {method} x {sharpness}", plan.wrapped.target, prepare)
    for entry in plan.yardsticks:
        with seeded(plan.seed):
            yardsticks = _task(entry.task, entry.protocol).yardsticks()
        for name, (ours, reference) in yardsticks.items():
            title = f"{entry.task} {entry.protocol}: {name}"
            yield Case(title, entry.target, partial(Contest, ours, [reference]))


def _against_hand_written(build: Callable[[], Workload], method: str) -> Contest:
    work = build()
    step = work.stepper(method, SHARPNESS.default).step
    return Contest(partial(step, work.batch, work.loss), [HandWritten(work, method)])


def _against_passes(build: Callable[[], Workload], method: str, sharpness: str) -> Contest:
    work = build()
    step = work.stepper(method, sharpness).step
    return Contest(partial(step, work.batch, work.loss), passes(work, method, sharpness))


# ------------------------------------------------------------------------------------ command
@bench_app.callback()
def _sub_commands() -> None:
    """Keeps the sub-command's name in the command line while there is but one."""


@bench_app.command()
def engine(
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
    plan: Annotated[Path | None, typer.Option(help="YAML file instead of the default.")] = None,
    case: Annotated[str, typer.Option(help="Only cases like this: 'cnn*: *'.")] = "*",
    rounds: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Instead of the plan's.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; the fastest there is.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
) -> None:
    """Time steps against hand-written ones and their passes, networks against yardsticks."""
    read = Plan.read(plan)
    where = pick_device(device)
    if out is not None:
        check_writable(out.parent)
    chosen = [c for c in cases(read, where) if fnmatch(c.name, case)]
    if not chosen:
        raise UsageError(f"no case is like {case!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shown = track(chosen, "cases", console=console, disable=not console.is_terminal)
        rows = [
            measure(
                c,
                rounds=read.rounds if rounds is None else rounds,
                seconds=read.seconds if seconds is None else seconds,
                device=where,
            )
            for c in shown
        ]
    finally:
        torch.set_num_threads(before)
    caption = f"{describe(where)}, {threads} thread(s), torch {torch.__version__}"
    console.print(render(rows, caption))
    if out is not None:
        write_csv(pd.DataFrame(rows), out)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def render(rows: Sequence[Row], caption: str) -> Table:
    """The table for a terminal."""
    table = Table("case", caption=escape(caption), caption_justify="left")
    for header in ("ours ms", "reference ms", "ratio", "target", "met"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        numbers = (f"{row.ours_ms:.4g}", f"{row.reference_ms:.4g}", f"{row.ratio:.3f}")
        met = "yes" if row.met else "[red]NO[/red]"
        table.add_row(escape(row.case), *numbers, f"{row.target:.3f}", met)
    return table
