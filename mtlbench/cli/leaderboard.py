"""``mtlbench leaderboard``: from records to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlbench.cli.options import Out
from mtlbench.cli.submit import check_submission
from mtlbench.cli.terminal import aside, console, say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    from mtlbench.boards.build import Board
    from mtlbench.runs.record import RunRecord


def leaderboard(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of records; leaderboards/records by default.")
    ] = None,
    out: Out = Path("leaderboards"),
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; fail if a CSV file, or the pictures, page or text beside them, "
            "would change, or a submission is unfit.",
        ),
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
        typer.Option(
            help="Print the literature's table of this data set and, if a folder is given, beside "
            "its rows those of the folder that are of a published protocol, on the real data."
        ),
    ] = None,
) -> None:
    """Turn a folder of records into a table and its CSV files: <task>.csv, <task>_seeds.csv,
    <task>_pairs.csv and <task>_standings.csv."""
    from mtlbench.boards import tables
    from mtlbench.boards.formats import FORMATS
    from mtlbench.boards.plot import plot as draw
    from mtlbench.boards.submission import MANIFEST
    from mtlbench.files import check_writable

    if form is not None and form not in FORMATS:
        raise UsageError(f"unknown format {form!r}; there are: {', '.join(FORMATS)}")
    if published is not None:
        print_published(published, folder)
        return
    folder = Path("leaderboards/records") if folder is None else folder
    if check and (folder / MANIFEST).is_file():
        check_submission(folder, out)
        return
    built, records, faults = read_boards(folder)
    if form is not None:
        typer.echo(FORMATS[form](built), nl=False)
        raise typer.Exit(bool(faults))
    if check:
        check_outputs(built, records, out)
        raise typer.Exit(bool(faults))
    check_writable(out)
    written = tables.write(built, out)
    if plot:
        for board in built.values():
            written.append(out / f"{board.task}.svg")
            draw(board, written[-1])
    print_boards(built)
    for path in written:
        say(f"wrote {path}")
    if faults:
        raise typer.Exit(1)


def check_outputs(boards: Mapping[str, Board], records: Sequence[RunRecord], out: Path) -> None:
    """Say whether a folder has what its records make.

    Raises:
        typer.Exit: it has not.
    """
    from mtlbench.boards.outputs import check

    found = check(boards, records, out)
    for remark in found.remarks:
        aside(remark)
    for complaint in found.complaints:
        say(complaint, style="red")
    if found.complaints:
        raise typer.Exit(1)
    say(f"{out}: {', '.join(found.checked)}: what its {len(records)} records make")


def read_boards(folder: Path) -> tuple[dict[str, Board], list[RunRecord], list[str]]:
    """Boards of a folder of records; of a leaderboard's own ``records/`` with what others handed in
    beside it.

    Returns:
        The boards, the records that they are made of, and what is left out and why, which is said.

    Raises:
        UsageError: see :func:`read`.
    """
    from mtlbench.boards.build import build
    from mtlbench.boards.handed_in import NOTHING
    from mtlbench.boards.submission import RECORDS, handed_in

    records, faults = read(folder)
    place = folder.resolve()
    others, unfit = handed_in(folder.parent, records) if place.name == RECORDS else (NOTHING, [])
    warn(unfit)
    return build(records, others), [*records, *others.records], faults + unfit


def read(folder: Path) -> tuple[list[RunRecord], list[str]]:
    """The records of a folder, and what is left out of it and why, which is said.

    Raises:
        UsageError: there are none.
    """
    from mtlbench.boards.folder import read_folder

    if not folder.is_dir():
        raise UsageError(f"there is no folder of records at {folder}")
    records, faults = read_folder(folder)
    warn(faults)
    if not records:
        raise UsageError(f"there is no record (*.json) in {folder}")
    return records, faults


def warn(faults: Sequence[str]) -> None:
    """Say which files of a folder are left out, and why."""
    for fault in faults:
        aside(f"left out: {fault}", style="yellow")


def print_published(name: str, folder: Path | None) -> None:
    """Print what papers report, with delta-m and ranks computed again, and what is ours beside.

    Raises:
        UsageError: nothing is published of this name, or there are no records.
    """
    from mtlbench.boards.beside import beside, published_groups
    from mtlbench.boards.published import Literature
    from mtlbench.boards.terminal import heading
    from mtlbench.registry import TASKS

    literature = Literature.read(name)
    console.print(*literature.render())
    if folder is None:
        return
    task = name.replace("-", "_")
    built, *_ = read_boards(folder)
    groups = published_groups(TASKS.get(task).info, built[task]) if task in built else []
    for rows in groups:
        console.print(beside(literature, rows, heading(rows)))
    if not groups:
        say(f"{folder} has no run of {task} under a published protocol on the real data")


def print_boards(boards: Mapping[str, Board]) -> None:
    """Print tables, and what they can tell."""
    from mtlbench.boards.comparisons import pairs, summary
    from mtlbench.boards.terminal import render

    for board in boards.values():
        for sheet, said in zip(render(board), summary(board, pairs(board)), strict=True):
            console.print(sheet)
            console.print(said, "", sep="\n", markup=False, highlight=False)
