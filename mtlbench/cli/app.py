"""The command line as a whole, and what goes in and out of it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from mtlbench.cli.bench import bench_app
from mtlbench.cli.check import check
from mtlbench.cli.compare import compare
from mtlbench.cli.data import data_app
from mtlbench.cli.leaderboard import leaderboard
from mtlbench.cli.listing import list_
from mtlbench.cli.look import show, toy
from mtlbench.cli.page import page
from mtlbench.cli.run import quickstart, run
from mtlbench.errors import UsageError

LIST_OPTIONS = ("--method", "--sharpness", "--seed")
"""Options that take several values: ``--seed 0 1 2``."""
app = typer.Typer(
    help="Compare multi-task weighting methods and sharpness-aware wrappers under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command("list")(list_)
for command in (run, quickstart, leaderboard, compare, page, show, toy, check):
    app.command()(command)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")


def repeated(arguments: Sequence[str]) -> list[str]:
    """Write ``--seed 0 1 2`` as ``--seed 0 --seed 1 --seed 2``, which is what click understands."""
    spread: list[str] = []
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in LIST_OPTIONS else ""
            if not option:
                spread.append(argument)
        elif option:
            spread += [option, argument]
        else:
            spread.append(argument)
    return spread


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Args:
        arguments: instead of the process's.

    Returns:
        0; 1 if a run failed or a check did; 2 for a request that cannot be carried out; 130 after
        an interrupt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(repeated(words), prog_name="mtlbench")
    except SystemExit as end:  # how typer ends, also after an error of its own
        return int(end.code or 0)
    except UsageError as error:
        if debug:
            raise
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        return 2
    return 0


def entry() -> None:
    """Console script; like ``python -m``, it finds a user's own modules in the current folder, and
    says what takes its time."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mtlbench").setLevel(logging.INFO)
    sys.path.append(os.getcwd())
    raise SystemExit(main())
