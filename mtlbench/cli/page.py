"""``mtlbench page``: boards as one static page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtlbench.cli.leaderboard import read_boards
from mtlbench.cli.terminal import say


def page(
    folder: Annotated[Path, typer.Argument(help="Folder of records.")] = Path(
        "leaderboards/records"
    ),
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path(
        "leaderboards/index.html"
    ),
) -> None:
    """Turn a folder of records into one HTML file that needs no network."""
    from mtlbench.boards.outputs import why
    from mtlbench.boards.page import page as html
    from mtlbench.files import check_writable, write_atomically

    check_writable(out.parent)
    boards, records, _ = read_boards(folder)
    text = html(boards, records, why(out.parent))
    write_atomically(out, lambda temporary: temporary.write_bytes(text.encode()))
    say(f"wrote {out}")
