"""``mtlbench bench engine | solvers | step | ...``: what the library's own work costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from mtlbench.boards.layout import Column, Sheet
from mtlbench.cli.pace import Pace
from mtlbench.cli.terminal import aside, console, say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    import torch

    from mtlbench.bench.loading import LoadingRow
    from mtlbench.bench.memory import MemoryRow
    from mtlbench.bench.plan import Plan
    from mtlbench.bench.ranks import RanksRow
    from mtlbench.bench.solvers import SolverRow
    from mtlbench.bench.steps import StepRow
    from mtlbench.bench.sweeps import SweepRow
    from mtlbench.bench.timing import Row

bench_app = typer.Typer(help="Measure what the library's own work costs.", no_args_is_help=True)


Out = Annotated[Path | None, typer.Option(help="CSV file to write.")]
PlanFile = Annotated[Path | None, typer.Option(help="YAML file instead of the default.")]
Like = Annotated[str, typer.Option(help="Only cases like this: 'cnn*: *'.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.")]
Seconds = Annotated[float | None, typer.Option(help="Instead of the plan's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; the fastest there is.")]
FEW = 2
"""Processes that fetch batches, where that is not said."""
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]


@bench_app.command()
def engine(
    out: Out = None,
    plan: PlanFile = None,
    case: Like = "*",
    rounds: Rounds = None,
    seconds: Seconds = None,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """Time steps against hand-written ones and their passes, networks against yardsticks."""
    from mtlbench.bench.engine import EnginePlan, cases
    from mtlbench.bench.timing import measure
    from mtlbench.hardware import pick_device

    read, where = EnginePlan.read(plan).paced(rounds, seconds), pick_device(device)
    row = partial(measure, rounds=read.rounds, seconds=read.seconds, device=where)
    wanted = cases(read, where)
    _run(wanted, row, _engine_table, read, like=case, out=out, device=where, threads=threads)


def _engine_table(rows: Sequence[Row]) -> list[Column]:
    """The table for a terminal."""
    headers = ("ours ms", "reference ms", "ratio", "target", "met")
    return _columns(
        headers,
        [
            (
                row.case,
                f"{row.ours_ms:.4g}",
                f"{row.reference_ms:.4g}",
                f"{row.ratio:.3f}",
                "" if row.target is None else f"{row.target:.3f}",
                _verdict(row.met),
            )
            for row in rows
        ],
    )


@bench_app.command()
def solvers(
    out: Out = None,
    plan: PlanFile = None,
    case: Like = "*",
    rounds: Rounds = None,
    seconds: Seconds = None,
) -> None:
    """Time solves on the Gramian against straightforward ones, and compare what they find."""
    from mtlbench.bench.solvers import CPU, SolversPlan, cases, measured

    read = SolversPlan.read(plan).paced(rounds, seconds)
    row = partial(measured, rounds=read.rounds, seconds=read.seconds)
    _run(cases(read), row, _solver_table, read, like=case, out=out, device=CPU, threads=1)


def _solver_table(rows: Sequence[SolverRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("ours ms", "its ms", "faster", "wanted", "gap", "its gap", "met")
    return _columns(
        headers,
        [
            (
                row.case,
                f"{row.ours_ms:.4g}",
                f"{row.reference_ms:.4g}",
                f"{row.faster:.3g}",
                "" if row.target is None else f"{1 / row.target:.3g}",
                f"{row.gap:.1e}",
                f"{row.reference_gap:.1e}",
                _verdict(row.met),
            )
            for row in rows
        ],
    )


@bench_app.command()
def step(
    task: Annotated[list[str] | None, typer.Option(help="Instead of the plan's.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Instead of the plan's.")] = None,
    sharpness: Annotated[list[str] | None, typer.Option(help="Instead of the plan's.")] = None,
    k: Annotated[
        list[int] | None, typer.Option(min=1, help="Numbers of tasks of the made-up network.")
    ] = None,
    width: Annotated[
        list[float] | None, typer.Option(help="Factors of the made-up network's widths.")
    ] = None,
    out: Out = None,
    plan: PlanFile = None,
    case: Like = "*",
    rounds: Rounds = None,
    seconds: Seconds = None,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """Time steps by task, method and wrapper; see how they grow with tasks and parameters."""
    from mtlbench.bench.steps import StepPlan, cases, measured
    from mtlbench.hardware import pick_device

    read = StepPlan.read(plan).paced(rounds, seconds)
    read, where = read.narrowed(task, method, sharpness, k, width), pick_device(device)
    row = partial(measured, rounds=read.rounds, seconds=read.seconds, device=where)
    wanted = cases(read, where)
    _run(wanted, row, _step_table, read, like=case, out=out, device=where, threads=threads)


def _step_table(rows: Sequence[StepRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("P", "fwd", "bwd", "ms", "x base", "x passes", "MiB", "faster", "met")
    return _columns(
        headers,
        [
            (
                row.case,
                f"{row.n_parameters:,}",
                f"{row.forward:g}",
                f"{row.backward:g}",
                f"{row.ms:.4g}",
                f"{row.to_baseline:.2f}",
                f"{row.to_passes:.3f}",
                "" if row.memory_mb is None else f"{row.memory_mb:.1f}",
                "" if row.faster is None else f"{row.faster:.2f}",
                _verdict(row.met),
            )
            for row in rows
        ],
    )


@bench_app.command("memory")
def memory_(
    out: Out = None,
    plan: PlanFile = None,
    case: Like = "*",
    rounds: Rounds = None,
    seconds: Seconds = None,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """See what steps hold at a time, on a whole Jacobian, without one, and by TorchJD."""
    from mtlbench.bench.memory import MemoryPlan, cases, measured
    from mtlbench.hardware import pick_device

    read, where = MemoryPlan.read(plan).paced(rounds, seconds), pick_device(device)
    row = partial(measured, rounds=read.rounds, seconds=read.seconds, device=where)
    wanted = cases(read, where)
    _run(wanted, row, _memory_table, read, like=case, out=out, device=where, threads=threads)


def _memory_table(rows: Sequence[MemoryRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("K", "P", "ms", "x whole", "MiB", "Jacobians", "at most", "met")
    return _columns(
        headers,
        [
            (
                row.case,
                f"{row.n_tasks}",
                f"{row.n_parameters:,}",
                f"{row.ms:.4g}",
                f"{row.to_whole_cpu:.3f}",
                "" if row.memory_mb is None else f"{row.memory_mb:.0f}",
                "" if row.jacobians is None else f"{row.jacobians:.2f}",
                "" if row.most is None else f"{row.most:g}",
                _verdict(row.met),
            )
            for row in rows
        ],
    )


@bench_app.command("ranks")
def ranks_(
    ranks: Annotated[
        list[int] | None, typer.Option(min=1, help="Numbers of processes instead of the plan's.")
    ] = None,
    out: Out = None,
    plan: PlanFile = None,
    case: Like = "*",
    rounds: Rounds = None,
    seconds: Seconds = None,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """Time steps on several processes, rows whole and by columns, and count what they send."""
    from mtlbench.bench.ranks import RanksPlan, cases, measured
    from mtlbench.hardware import pick_device

    read, where = RanksPlan.read(plan).paced(rounds, seconds), pick_device(device)
    if ranks:
        read = read.model_copy(update={"ranks": ranks})
    row = partial(measured, rounds=read.rounds, seconds=read.seconds, device=where, threads=threads)
    wanted = cases(read)
    _run(wanted, row, _ranks_table, read, like=case, out=out, device=where, threads=threads)


def _ranks_table(rows: Sequence[RanksRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("ms", "sums", "MB sent", "calls", "P", "steps")
    return _columns(
        headers,
        [
            (
                row.case,
                f"{row.ms:.4g}",
                f"{row.sums:.3g}",
                f"{row.sent_mb:.3g}",
                f"{row.calls:.3g}",
                f"{row.n_parameters:,}",
                f"{row.steps}",
            )
            for row in rows
        ],
    )


@bench_app.command("sweep")
def sweep_(out: Out = None, plan: PlanFile = None, case: Like = "*") -> None:
    """Time a sweep of many short runs: what each costs beyond its training and evaluation."""
    from mtlbench.bench.sweeps import SweepPlan, cases, measured
    from mtlbench.hardware import pick_device

    read, cpu = SweepPlan.read(plan), pick_device("cpu")
    _run(cases(read), measured, _sweep_table, plan=read, like=case, out=out, device=cpu, threads=1)


def _sweep_table(rows: Sequence[SweepRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("wall s", "train s", "evaluation s", "overhead s", "resume s / 1,000", "met")
    numbers = ((r.wall, r.train, r.evaluation, r.overhead, r.resume) for r in rows)
    cells = [tuple(f"{n:.3g}" for n in each) for each in numbers]
    return _columns(
        headers, [(r.case, *c, _verdict(r.met)) for r, c in zip(rows, cells, strict=True)]
    )


@bench_app.command("data")
def data_(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    protocol: Annotated[str | None, typer.Option(help="The task's first by default.")] = None,
    worker: Annotated[
        list[int] | None, typer.Option(min=0, help="Numbers of processes that fetch batches: 0 2.")
    ] = None,
    batches: Annotated[int | None, typer.Option(min=1, help="Of a pass; all by default.")] = None,
    out: Out = None,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """Time a data set on disk, with an empty cache and with a full one, against a step."""
    from mtlbench.bench.loading import Loading, cases, opened, step_rate
    from mtlbench.bench.plan import Plan
    from mtlbench.data.loader import check_workers, default_workers
    from mtlbench.hardware import pick_device, torch_threads

    where = pick_device(device)
    counts = worker or sorted({0, default_workers(where, on_disk=True) or FEW})
    check_workers(max(counts))
    with torch_threads(threads):
        rate = step_rate(opened(task, protocol, data), where)
    row = Loading(task, data, protocol, batches, where, rate).measured
    plan = Plan(seed=0, rounds=1, seconds=0)
    _run(cases(counts), row, _data_table, plan, like="*", out=out, device=where, threads=threads)


def _data_table(rows: Sequence[LoadingRow]) -> list[Column]:
    """The table for a terminal."""
    headers = ("open s", "again s", "cold /s", "warm /s", "step /s", "warm / step")
    numbers = ((r.open_s, r.again_s, r.cold, r.warm, r.step, r.fed) for r in rows)
    cells = [tuple(f"{n:.4g}" for n in each) for each in numbers]
    return _columns(headers, [(r.case, *c) for r, c in zip(rows, cells, strict=True)])


# ------------------------------------------------------------------------------------ all of them


class Named(Protocol):
    """Anything that can be chosen by its name."""

    @property
    def name(self) -> str:
        """Unique."""


C = TypeVar("C", bound=Named)
R = TypeVar("R")


def _run(
    cases: Iterable[C],
    row: Callable[[C], R],
    render: Callable[[list[R]], list[Column]],
    plan: Plan,
    *,
    like: str,
    out: Path | None,
    device: torch.device,
    threads: int,
) -> None:
    """Measure cases one by one, write them as a CSV file and print them as a table.

    Args:
        cases: in the order of the table.
        row: measures a case.
        render: makes the table's columns of all rows.
        plan: says how long a case takes at least.
        like: pattern of the names of the wanted cases.
        out: CSV file, if one is wanted.
        device: named in the caption.
        threads: torch threads while cases are measured.

    Raises:
        UsageError: no case has a name like that, or ``out`` cannot be written.
    """
    import pandas as pd
    import torch

    from mtlbench.files import check_writable, write_csv
    from mtlbench.hardware import describe, torch_threads

    if out is not None:
        check_writable(out.parent)
    chosen = [case for case in cases if fnmatch(case.name, like)]
    if not chosen:
        raise UsageError(f"no case is like {like!r}")
    aside(f"{len(chosen)} cases of {plan.rounds} rounds or {plan.seconds:g} s, whichever is longer")
    with torch_threads(threads):
        rows = _measured(chosen, row)
    if out is not None:
        frame: Any = pd.DataFrame(rows)
        write_csv(frame, out)
    heading = f"{describe(device)}, {threads} thread(s), torch {torch.__version__}"
    console.print(Sheet(heading, render(rows), [""] * len(rows), [False] * len(rows), []))
    if out is not None:
        say(f"wrote {out}")


def _measured(cases: Sequence[C], row: Callable[[C], R]) -> list[R]:
    """The cases' rows; a line on standard error says how far it is after each."""
    pace, rows = Pace(len(cases)), []
    for number, case in enumerate(cases, start=1):
        rows.append(row(case))
        pace.advance(1)
        aside(f"{number}/{len(cases)} {case.name}{pace.to_go}")
    return rows


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Column]:
    """The case, and numbers; of these a narrow terminal keeps the first and the verdict longest."""
    names, *numbers = zip(*rows, strict=True)
    last = len(headers) - 1
    shown = [
        Column(header, cells, rank=0 if i in (0, last) else i)
        for i, (header, cells) in enumerate(zip(headers, numbers, strict=True))
    ]
    return [Column("case", names, name=True), *shown]


def _verdict(met: bool | None) -> str:
    """A cell of the last column."""
    return {None: "", True: "yes", False: "NO"}[met]
