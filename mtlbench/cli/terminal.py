"""Printing, for all commands."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtlbench.boards.symbols import HANDLER

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def legible() -> None:
    """Let the process's output spell what its encoding lacks, instead of ending on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: no markup, no folding of paths."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def aside(text: str, style: str | None = None) -> None:
    """:func:`say` on standard error."""
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[tuple[Progress, Any]]:
    """A bar, if somebody watches, and its handle."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield bars, bars.add_task(what, total=total)
