"""The command line: ``mtlbench quickstart | list | run | leaderboard | show | check | data |
bench``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mtlbench import leaderboard as boards
from mtlbench import report
from mtlbench import show as pictures
from mtlbench import toy as two_losses
from mtlbench.bench import bench_app
from mtlbench.data import check_split
from mtlbench.data_cli import data_app
from mtlbench.errors import UsageError
from mtlbench.hardware import cores
from mtlbench.interfaces import TaskInfo
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry
from mtlbench.results import RunRecord, Store, check_writable
from mtlbench.runner import Run, RunSpec
from mtlbench.sweep import grid, sweep, unfinished

app = typer.Typer(
    help="Compare multi-task weighting methods and sharpness-aware wrappers under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)

LIST_OPTIONS = ("--method", "--sharpness", "--seed")
"""Options that take several values: ``--seed 0 1 2``."""

VERDICT_STYLES = {"ok": "green", "FAILED": "red", "holds": "default", "does not hold": "dim"}
Kind = Literal["tasks", "methods", "sharpness"]
REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": TASKS,
    "methods": METHODS,
    "sharpness": SHARPNESS,
}
Out = Annotated[Path, typer.Option("--out", help="Folder to write to; made if it is not there.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...; the fastest there is by default.")
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs at a time; one a core on the CPU, one on other devices."),
]


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; all by default.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="One name a line.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Of each task all that it declares.")
    ] = False,
) -> None:
    """List tasks, methods and sharpness wrappers."""
    for name in REGISTRIES if kind is None else [kind]:
        names = REGISTRIES[name].names()
        if plain:
            typer.echo("\n".join(names))
            continue
        if long and name == "tasks":
            for entry in names:
                console.print(_declared(entry))
            continue
        table = Table("name", "title", "what it is", title=name, title_justify="left")
        for entry in names:
            try:
                cls = REGISTRIES[name].get(entry)
            except UsageError as error:
                table.add_row(entry, "", escape(str(error)))
                continue
            module = sys.modules[cls.__module__].__doc__ or ""
            table.add_row(entry, cls.info.title, module.partition("\n")[0].partition(": ")[2])
        console.print(table)


def _declared(name: str) -> Table:
    """What a task's ``info`` says."""
    try:
        info: TaskInfo = TASKS.get(name).info
    except UsageError as error:
        return Table(escape(str(error)), title=name, title_justify="left")
    table = Table(
        title=escape(f"{name}: {info.title}"),
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=box.SIMPLE_HEAD,
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    metrics = [
        f"{m.name} {'↑' if m.higher_is_better else '↓'} ({m.unit or 'no unit'})"
        for m in info.metrics
    ]
    protocols = [
        f"{p.name} v{p.version}: {p.arch}, {p.epochs} epochs, batches of {p.batch_size}, "
        f"{p.optimizer} {p.lr:g}"
        for p in info.protocols
    ]
    rows = {
        f"{len(info.objectives)} objectives": ", ".join(info.objectives),
        "metrics": ", ".join(metrics),
        "protocols": "\n".join(protocols),
        "architectures": ", ".join(info.architectures),
        "data": info.instead,
        "the real data": info.source,
        "licence": info.licence,
        "papers": "\n".join(info.references),
    }
    for row in rows.items():
        table.add_row(*map(escape, row))
    return table


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    method: Annotated[list[str], typer.Option(help="One or more: ls fairgrad:alpha=2 ...")],
    out: Out,
    sharpness: Annotated[
        list[str] | None, typer.Option(help="One or more: none samo:rho=0.05 ...")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="One or more; 0 by default.")] = None,
    protocol: Annotated[str | None, typer.Option(help="The task's first by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the protocol's.")] = None,
    arch: Annotated[str | None, typer.Option(help="Instead of the protocol's.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="State dict that the trunk begins with.")
    ] = None,
    keep_model: Annotated[
        bool, typer.Option("--keep-model", help="Keep the selected epoch's weights, for show.")
    ] = False,
    device: Device = None,
    jobs: Jobs = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of each run.")] = 1,
) -> None:
    """Train every method with every wrapper and seed, but for the runs that are done."""
    base = RunSpec(task, "", None, 0, protocol, data, epochs, arch, device, weights, keep_model)
    runs = grid(base, method, sharpness or [SHARPNESS.default], seed or [0])
    failed = _execute(runs, out, jobs, threads)
    _print(Store(out))
    _end(failed)


@app.command()
def quickstart(
    out: Out = Path("quickstart"),
    device: Device = None,
    jobs: Jobs = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the quickstart's.")] = None,
) -> None:
    """Train a small leaderboard from embedded data in under three minutes."""
    plan = yaml.safe_load(files("mtlbench").joinpath("quickstart.yaml").read_text())
    base = RunSpec(plan["task"], "", epochs=epochs or plan["epochs"], device=device)
    runs = [
        run for g in plan["grids"] for run in grid(base, g["method"], g["sharpness"], plan["seed"])
    ]
    unique = list({run.identity.digest: run for run in runs}.values())
    records = out / "records"
    failed = _execute(unique, records, jobs, threads=1)
    built = _print(Store(records))
    written = boards.write(built, out)
    for board in built.values():
        written.append(out / f"{board.task}.png")
        report.plot(board, written[-1])
    for path in written:
        _say(f"wrote {path}")
    _end(failed)


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder of records.")] = Path(
        "leaderboards/records"
    ),
    out: Out = Path("leaderboards"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a CSV file would change.")
    ] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also plot delta-m against run time.")
    ] = False,
) -> None:
    """Turn a folder of records into <task>.csv, <task>_seeds.csv and a table."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder of records at {folder}")
    records = list(Store(folder))
    if not records:
        raise UsageError(f"there is no record (*.json) in {folder}")
    if check:
        complaints = boards.check(records, out)
        for complaint in complaints:
            _say(complaint, style="red")
        if complaints:
            raise typer.Exit(1)
        _say(f"{out}: every CSV file is what its {len(records)} records make")
        return
    check_writable(out)
    built = _print(records)
    boards.write(built, out)
    if plot:
        for board in built.values():
            report.plot(board, out / f"{board.task}.png")


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Record of a run with --keep-model: its predictions.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    n: Annotated[int, typer.Option(min=1, help="Samples.")] = 4,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("show.png"),
) -> None:
    """Draw inputs and targets, and with a run its predictions and their errors."""
    check_split(split)
    if out.suffix.lower() != ".png":
        raise UsageError(f"the picture's file must end in .png, not be {out}")
    check_writable(out.parent)
    benchmark, model, title = pictures.opened(task, data, run)
    pictures.draw(pictures.rows(benchmark, model, split, n), f"{title}, {split}", out)
    _say(f"wrote {out}")


@app.command()
def toy(out: Out = Path("toy")) -> None:
    """Draw where methods and wrappers lead on two quadratic losses in the plane."""
    check_writable(out)
    plan = two_losses.Plan.read()
    ways = two_losses.trajectories(plan)
    boards.write_csv(ways, out / "toy.csv")
    two_losses.plot(ways, plan, out / "toy.png")
    ends = two_losses.summary(ways)
    table = Table(*ends.columns, title="means over the last 50 steps")
    for row in ends.itertuples(index=False):
        table.add_row(*(value if isinstance(value, str) else f"{value:.4f}" for value in row))
    console.print(table)
    for name in ("toy.csv", "toy.png"):
        _say(f"wrote {out / name}")


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(help="NAME or my_pkg.mod:MyClass, and :option=value,... after it.")
    ],
    data: Annotated[Path | None, typer.Option(help="Folder that a task reads.")] = None,
) -> None:
    """Hold a method, wrapper or task to its contract and to what it claims."""
    from mtlbench import testing  # half a second to import, and needed only here

    found = testing.check(name, data)
    table = Table("check", "held to it", "verdict", "detail", title=escape(name))
    for finding in found:
        verdict = f"[{VERDICT_STYLES[finding.verdict]}]{finding.verdict}"
        table.add_row(finding.check, finding.held, verdict, escape(finding.detail))
    console.print(table)
    failed = [finding.check for finding in found if finding.failed]
    if failed:
        _say(f"{name} does not conform: {', '.join(failed)}", style="red")
        raise typer.Exit(1)


def _execute(runs: Sequence[Run], folder: Path, jobs: int | None, threads: int) -> list[RunRecord]:
    """Run what is not done yet, with a progress bar if somebody watches; the failed ones."""
    check_writable(folder)
    store = Store(folder)
    todo = unfinished(runs, store)
    done = len(runs) - len(todo)
    _say(f"{len(runs)} runs, {done} of them done before; records in {folder}")
    parallel = jobs or (cores() if runs[0].device.type == "cpu" else 1)
    failed: list[RunRecord] = []
    with _progress(sum(run.total_epochs for run in todo)) as (progress, bar):

        def finished(run: Run, record: RunRecord) -> None:
            if record.status != "ok":
                failed.append(record)
            progress.console.print(_line(record), highlight=False, soft_wrap=True)

        sweep(
            todo,
            folder,
            jobs=parallel,
            threads=threads,
            on_epoch=lambda _: progress.advance(bar),
            on_record=finished,
        )
    return [record for record in failed if record.status == "failed"]


def _end(failed: Sequence[RunRecord]) -> None:
    """Exit with 1 if a run failed."""
    if failed:
        _say(f"{len(failed)} runs failed; the same command tries them again")
        raise typer.Exit(1)


def _say(text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, no folding of paths."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _line(record: RunRecord) -> str:
    identity = record.identity
    name = f"{identity.method} x {identity.sharpness}, seed {identity.seed}"
    if record.status != "ok":
        return f"[red]{record.status}[/red] {name}: {escape(record.reason)}"
    return f"[green]ok[/green] {name}: {record.train_seconds:.1f} s"


@contextmanager
def _progress(total: int) -> Iterator[tuple[Progress, Any]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task("epochs", total=total)


def _print(records: Iterable[RunRecord]) -> dict[str, boards.Board]:
    built = boards.build(records)
    for board in built.values():
        for table in report.render(board):
            console.print(table)
    return built


def _spread(arguments: Sequence[str]) -> list[str]:
    """Write ``--seed 0 1 2`` as ``--seed 0 --seed 1 --seed 2``, which is what click understands."""
    spread: list[str] = []
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in LIST_OPTIONS else ""
            if not option:
                spread.append(argument)
        elif option:
            spread += [option, argument]
        else:
            spread.append(argument)
    return spread


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Args:
        arguments: instead of the process's.

    Returns:
        0; 1 if a run failed or a check did; 2 for a request that cannot be carried out; 130 after
        an interrupt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(_spread(words), prog_name="mtlbench")
    except SystemExit as end:  # how typer ends, also after an error of its own
        return int(end.code or 0)
    except UsageError as error:
        if debug:
            raise
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return 2
    return 0


def entry() -> None:
    """Console script; like ``python -m``, it finds a user's own modules in the current folder, and
    says what takes its time."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mtlbench").setLevel(logging.INFO)
    sys.path.append(os.getcwd())
    raise SystemExit(main())
