"""``mtlbench compare``: two rows in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtlbench.cli.leaderboard import read_boards
from mtlbench.cli.terminal import console
from mtlbench.errors import UsageError


def compare(
    first: Annotated[str, typer.Argument(help="METHOD or METHOD+WRAPPER, each with its options.")],
    second: Annotated[str, typer.Argument(help="The row that it is compared with.")],
    task: Annotated[str | None, typer.Option(help="All that have both rows by default.")] = None,
    records: Annotated[Path, typer.Option(help="Folder of records.")] = Path(
        "leaderboards/records"
    ),
) -> None:
    """Say in plain words what the records show of two rows, paired by seed."""
    from mtlbench.boards.compare import compare as paragraphs

    boards, _, _ = read_boards(records)
    if task is not None and task not in boards:
        raise UsageError(f"no records of {task!r} in {records}; there are: {', '.join(boards)}")
    wanted = boards if task is None else {task: boards[task]}
    for text in paragraphs(wanted, first, second):
        console.print(text, "", sep="\n", markup=False, highlight=False)
