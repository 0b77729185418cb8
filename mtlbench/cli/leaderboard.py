"""``mtlbench leaderboard``: from records to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlbench.cli.options import Out
from mtlbench.cli.terminal import aside, console, say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    from mtlbench.boards.build import Board


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
    from mtlbench.boards.build import build
    from mtlbench.boards.folder import read_folder
    from mtlbench.boards.plot import plot as draw
    from mtlbench.files import check_writable

    if not folder.is_dir():
        raise UsageError(f"there is no folder of records at {folder}")
    records, faults = read_folder(folder)
    warn(faults)
    if not records:
        raise UsageError(f"there is no record (*.json) in {folder}")
    if check:
        complaints = tables.check(records, out)
        for complaint in complaints:
            say(complaint, style="red")
        if complaints or faults:
            raise typer.Exit(1)
        say(f"{out}: every CSV file is what its {len(records)} records make")
        return
    check_writable(out)
    built = build(records)
    written = tables.write(built, out)
    if plot:
        for board in built.values():
            written.append(out / f"{board.task}.png")
            draw(board, written[-1])
    print_boards(built)
    for path in written:
        say(f"wrote {path}")
    if faults:
        raise typer.Exit(1)


def warn(faults: Sequence[str]) -> None:
    """Say which files of a folder are left out, and why."""
    for fault in faults:
        aside(f"left out: {fault}", style="yellow")


def print_boards(boards: Mapping[str, Board]) -> None:
    """Print the tables."""
    from mtlbench.boards.terminal import render

    for board in boards.values():
        for sheet in render(board):
            console.print(sheet)
