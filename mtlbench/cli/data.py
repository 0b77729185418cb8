"""``mtlbench data make | verify``: data sets on disk."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mtlbench.cli.terminal import console, progress, say
from mtlbench.errors import UsageError
from mtlbench.registry import TASKS, Spec

if TYPE_CHECKING:
    from mtlbench.interfaces import Fault, Task

data_app = typer.Typer(help="Generate and check data sets on disk.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TASK", help="Its name.")]
Count = Annotated[int | None, typer.Option(min=0, help="Samples, instead of the default.")]


@data_app.command()
def make(
    task: Name,
    out: Annotated[Path | None, typer.Option(help="Folder; one in the cache by default.")] = None,
    n_train: Count = None,
    n_val: Count = None,
    n_test: Count = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, such as 64x128.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core.")] = None,
) -> None:
    """Generate a task's stand-in data; goes on with a folder that was left half-made."""
    from mtlbench.data import standin

    cls = _task(task)
    recipe = cls.recipe
    if recipe is None:
        raise UsageError(f"task {task!r} generates no data; these do: {', '.join(_generated())}")
    asked = {"train": n_train, "val": n_val, "test": n_test}
    counts = {split: n for split, n in asked.items() if n is not None}
    wanted = standin.plan(cls.info.name, recipe, counts, None if size is None else _size(size))
    folder = out or standin.place(wanted)
    start = time.perf_counter()
    with progress("samples", len(wanted.samples)) as (bars, bar):
        manifest = standin.generate(
            wanted, recipe, folder, jobs=jobs, on_sample=lambda: bars.advance(bar)
        )
    say(str(folder))
    say(f"{manifest}; {time.perf_counter() - start:.1f} s")
    say(f"sha256 {manifest.sha256}")


@data_app.command()
def verify(
    task: Name,
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
) -> None:
    """Check a folder of a data set completely, and say all that is wrong with it."""
    from mtlbench.data import check_folder, standin

    cls = _task(task)
    check_folder(data, cls.info)
    faults = list(cls.verify(data))
    if cls.recipe is not None:
        faults += standin.check_manifest(cls.info.name, cls.recipe, data)
    if faults:
        console.print(_table(faults, data))
        raise typer.Exit(1)
    n_files = sum(path.is_file() for path in data.rglob("[!.]*"))
    say(f"{data}: nothing is wrong with its {n_files} files")


def _task(text: str) -> type[Task]:
    cls, _ = TASKS.resolve(Spec.parse(text))
    return cls


def _generated() -> list[str]:
    """Names of the tasks with a recipe; one that cannot be imported has none."""
    found = []
    for name in TASKS.names():
        try:
            if TASKS.get(name).recipe is not None:
                found.append(name)
        except UsageError:
            continue
    return found or ["no task does"]


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"size {text!r} is not of the form HEIGHTxWIDTH, such as 64x128")
    return int(match[1]), int(match[2])


def _table(faults: list[Fault], data: Path) -> Table:
    title = escape(f"{data}: {len(faults)} faults")
    table = Table(title=title, title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("what is wrong", overflow="fold")
    for fault in faults:
        inside = fault.file.is_relative_to(data)
        file = fault.file.relative_to(data) if inside else fault.file
        table.add_row(escape(str(file)), escape(fault.what))
    return table
