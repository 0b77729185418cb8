"""``mtlbench leaderboard``: from records to tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlbench.cli.options import Out
from mtlbench.cli.terminal import console, say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    from mtlbench.boards.build import Board
    from mtlbench.runs.record import RunRecord


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
    from mtlbench.boards import tables
    from mtlbench.boards.plot import plot as draw
    from mtlbench.files import check_writable
    from mtlbench.runs.store import Store

    if not folder.is_dir():
        raise UsageError(f"there is no folder of records at {folder}")
    records = list(Store(folder))
    if not records:
        raise UsageError(f"there is no record (*.json) in {folder}")
    if check:
        complaints = tables.check(records, out)
        for complaint in complaints:
            say(complaint, style="red")
        if complaints:
            raise typer.Exit(1)
        say(f"{out}: every CSV file is what its {len(records)} records make")
        return
    check_writable(out)
    built = print_boards(records)
    tables.write(built, out)
    if plot:
        for board in built.values():
            draw(board, out / f"{board.task}.png")


def print_boards(records: Iterable[RunRecord]) -> dict[str, Board]:
    """Print the tables of records, and return them by task."""
    from mtlbench.boards.build import build
    from mtlbench.boards.terminal import render

    built = build(records)
    for board in built.values():
        for table in render(board):
            console.print(table)
    return built
