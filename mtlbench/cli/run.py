"""``mtlbench run | quickstart``: training."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mtlbench.cli.leaderboard import print_boards, warn
from mtlbench.cli.options import Device, Jobs, Out
from mtlbench.cli.pace import Pace
from mtlbench.cli.terminal import progress, say
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec
from mtlbench.runs.workers import start_server

if TYPE_CHECKING:  # torch is imported while the server of the runs imports it, too
    from mtlbench.runs.record import RunRecord
    from mtlbench.runs.spec import Run


def run(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value,...")],
    method: Annotated[list[str], typer.Option(help="One or more: ls fairgrad:alpha=2 ...")],
    out: Out,
    sharpness: Annotated[
        list[str] | None, typer.Option(help="One or more: none samo:rho=0.05 ...")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="One or more; 0 by default.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="The task's first by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
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
    wanted = sharpness or [SHARPNESS.default]
    _begin([task], method, wanted)
    from mtlbench.boards.build import build
    from mtlbench.boards.folder import read_folder
    from mtlbench.runs.spec import RunSpec
    from mtlbench.runs.sweep import grid

    base = RunSpec(task, "", None, 0, protocol, data, epochs, arch, device, weights, keep_model)
    runs = grid(base, method, wanted, seed or [0])
    failed = _execute(runs, out, jobs, threads)
    records, faults = read_folder(out)
    warn(faults)
    print_boards(build(records))
    _end(failed)


def quickstart(
    out: Out = Path("quickstart"),
    device: Device = None,
    jobs: Jobs = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the quickstart's.")] = None,
) -> None:
    """Train a small leaderboard from embedded data in under three minutes."""
    import yaml

    plan = yaml.safe_load(files("mtlbench.cli").joinpath("quickstart.yaml").read_text())
    _begin(
        [plan["task"]],
        [method for grid in plan["grids"] for method in grid["method"]],
        [wrapper for grid in plan["grids"] for wrapper in grid["sharpness"]],
    )
    from mtlbench.boards import tables
    from mtlbench.boards.build import build
    from mtlbench.boards.folder import read_folder
    from mtlbench.boards.plot import plot
    from mtlbench.runs.spec import RunSpec
    from mtlbench.runs.sweep import grid

    base = RunSpec(plan["task"], "", epochs=epochs or plan["epochs"], device=device)
    runs = [
        run for g in plan["grids"] for run in grid(base, g["method"], g["sharpness"], plan["seed"])
    ]
    unique = list({run.identity.digest: run for run in runs}.values())
    records = out / "records"
    failed = _execute(unique, records, jobs, threads=1)
    read, faults = read_folder(records)
    warn(faults)
    built = build(read)
    written = tables.write(built, out)
    for board in built.values():
        written.append(out / f"{board.task}.png")
        plot(board, written[-1])
    print_boards(built)
    for path in written:
        say(f"wrote {path}")
    _end(failed)


def _begin(tasks: Sequence[str], methods: Sequence[str], wrappers: Sequence[str]) -> None:
    """Refuse unknown names before anything takes time, and let the processes of the coming runs
    import what they need, while this one does."""
    kinds = ((TASKS, tasks), (METHODS, methods), (SHARPNESS, wrappers))
    named = [(registry, Spec.parse(text).name) for registry, texts in kinds for text in texts]
    for registry, name in named:
        registry.check_name(name)
    start_server(filter(None, (registry.module(name) for registry, name in named)))


def _execute(runs: Sequence[Run], folder: Path, jobs: int | None, threads: int) -> list[RunRecord]:
    """Run what is not done yet, with a progress bar if somebody watches; the failed ones."""
    from mtlbench.files import check_writable
    from mtlbench.hardware import cores
    from mtlbench.runs.effort import effort_of_epoch
    from mtlbench.runs.store import Store
    from mtlbench.runs.sweep import sweep, unfinished

    check_writable(folder)
    store = Store(folder)
    todo = unfinished(runs, store)
    done = len(runs) - len(todo)
    parallel = jobs or (cores() if runs[0].device.type == "cpu" else 1)
    epochs = sum(run.total_epochs for run in todo)
    say(f"{len(runs)} runs, {done} of them done before; records in {folder}")
    if todo:
        say(f"{len(todo)} runs to do, {epochs} epochs in all, {min(parallel, len(todo))} at a time")
    effort = {run.identity.digest: effort_of_epoch(run) for run in todo}
    left = {run.identity.digest: run.total_epochs for run in todo}
    pace = Pace(sum(effort[digest] * epochs for digest, epochs in left.items()))
    failed: list[RunRecord] = []
    with progress("epochs", epochs) as (bars, bar):

        def advanced(run: Run) -> None:
            pace.advance(effort[run.identity.digest])
            left[run.identity.digest] -= 1
            bars.advance(bar)

        def finished(run: Run, record: RunRecord) -> None:
            if record.status != "ok":
                failed.append(record)
            pace.drop(effort[run.identity.digest] * left[run.identity.digest])
            bars.console.print(_line(record) + pace.to_go, highlight=False, soft_wrap=True)

        sweep(
            todo,
            folder,
            jobs=parallel,
            threads=threads,
            on_epoch=advanced,
            on_record=finished,
        )
    return [record for record in failed if record.status == "failed"]


def _end(failed: Sequence[RunRecord]) -> None:
    """Exit with 1 if a run failed."""
    if failed:
        say(f"{len(failed)} runs failed; the same command tries them again")
        raise typer.Exit(1)


def _line(record: RunRecord) -> str:
    identity = record.identity
    name = f"{identity.method} x {identity.sharpness}, seed {identity.seed}"
    if record.status != "ok":
        return f"[red]{record.status}[/red] {name}: {escape(record.reason)}"
    return f"[green]ok[/green] {name}: {record.train_seconds:.1f} s"
