"""What the commands share: their options, and the way from cases to a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mtlbench.errors import UsageError
from mtlbench.hardware import describe
from mtlbench.leaderboard import write_csv
from mtlbench.results import check_writable

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)

Out = Annotated[Path | None, typer.Option(help="CSV file to write.")]
PlanFile = Annotated[Path | None, typer.Option(help="YAML file instead of the default.")]
Like = Annotated[str, typer.Option(help="Only cases like this: 'cnn*: *'.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.")]
Seconds = Annotated[float | None, typer.Option(help="Instead of the plan's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; the fastest there is.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]


class Named(Protocol):
    """Anything that can be chosen by its name."""

    @property
    def name(self) -> str:
        """Unique."""


C = TypeVar("C", bound=Named)
R = TypeVar("R")


def run(
    cases: Iterable[C],
    row: Callable[[C], R],
    render: Callable[[list[R]], Table],
    *,
    like: str,
    out: Path | None,
    device: torch.device,
    threads: int,
) -> None:
    """Measure cases one by one, print them as a table and write them as a CSV file.

    Args:
        cases: in the order of the table.
        row: measures a case.
        render: makes a table of all rows.
        like: pattern of the names of the wanted cases.
        out: CSV file, if one is wanted.
        device: named in the caption.
        threads: torch threads while cases are measured.

    Raises:
        UsageError: no case has a name like that, or ``out`` cannot be written.
    """
    if out is not None:
        check_writable(out.parent)
    chosen = [case for case in cases if fnmatch(case.name, like)]
    if not chosen:
        raise UsageError(f"no case is like {like!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shown = track(chosen, "cases", console=console, disable=not console.is_terminal)
        rows = [row(case) for case in shown]
    finally:
        torch.set_num_threads(before)
    printed = render(rows)
    printed.caption = f"{describe(device)}, {threads} thread(s), torch {torch.__version__}"
    printed.caption_justify = "left"
    console.print(printed)
    if out is not None:
        frame: Any = pd.DataFrame(rows)
        write_csv(frame, out)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def table(*numbers: str) -> Table:
    """An empty table: the case, and columns of numbers."""
    empty = Table("case")
    for header in numbers:
        empty.add_column(header, justify="right", no_wrap=True)
    return empty


def verdict(met: bool | None) -> str:
    """A cell of the last column."""
    return {None: "", True: "yes", False: "[red]NO[/red]"}[met]
