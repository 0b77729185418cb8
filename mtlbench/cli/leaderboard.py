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
    form: Annotated[
        str | None,
        typer.Option("--format", help="Print csv, markdown, latex or json, and write nothing."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(help="Print the literature's table of this data set, and no runs of ours."),
    ] = None,
) -> None:
    """Turn a folder of records into a table and its CSV files: <task>.csv, <task>_seeds.csv,
    <task>_pairs.csv and <task>_standings.csv."""
    from mtlbench.boards import tables
    from mtlbench.boards.build import build
    from mtlbench.boards.formats import FORMATS
    from mtlbench.boards.plot import plot as draw
    from mtlbench.files import check_writable

    if form is not None and form not in FORMATS:
        raise UsageError(f"unknown format {form!r}; there are: {', '.join(FORMATS)}")
    if published is not None:
        print_published(published)
        return
    records = read(folder)
    if form is not None:
        typer.echo(FORMATS[form](build(records)), nl=False)
        return
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


def read(folder: Path) -> list[RunRecord]:
    """All records of a folder.

    Raises:
        UsageError: there are none.
    """
    from mtlbench.runs.store import Store

    if not folder.is_dir():
        raise UsageError(f"there is no folder of records at {folder}")
    records = list(Store(folder))
    if not records:
        raise UsageError(f"there is no record (*.json) in {folder}")
    return records


def print_published(name: str) -> None:
    """Print what papers report, with delta-m and ranks computed again."""
    from mtlbench.boards.published import Literature

    console.print(*Literature.read(name).render())


def print_boards(records: Iterable[RunRecord]) -> dict[str, Board]:
    """Print the tables of records and what they can tell, and return them by task."""
    from mtlbench.boards.build import build
    from mtlbench.boards.comparisons import pairs, summary
    from mtlbench.boards.terminal import render

    built = build(records)
    for board in built.values():
        for table, said in zip(render(board), summary(board, pairs(board)), strict=True):
            console.print(table)
            console.print(said, "", sep="\n", markup=False, highlight=False)
    return built
