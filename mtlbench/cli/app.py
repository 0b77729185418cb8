"""The command line as a whole, and what goes in and out of it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import mtlbench
from mtlbench.cli.bench import bench_app
from mtlbench.cli.check import check
from mtlbench.cli.compare import compare
from mtlbench.cli.data import data_app
from mtlbench.cli.diagnose import diagnose
from mtlbench.cli.leaderboard import leaderboard
from mtlbench.cli.listing import list_
from mtlbench.cli.look import show, toy
from mtlbench.cli.page import page
from mtlbench.cli.regenerate import regenerate
from mtlbench.cli.run import quickstart, run
from mtlbench.cli.submit import submit, verify
from mtlbench.cli.sweep import sweep
from mtlbench.cli.terminal import aside, legible
from mtlbench.errors import UsageError
from mtlbench.processes import end_on_signals, rank_and_size

LIST_OPTIONS = ("--method", "--sharpness", "--seed", "--task", "--k", "--width", "--worker")
"""Options that take several values: ``--seed 0 1 2``."""
app = typer.Typer(
    help="Compare multi-task weighting methods and sharpness-aware wrappers under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mtlbench {mtlbench.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show errors with their traceback, and more of what goes on."),
    ] = False,
) -> None:
    """Options of all commands; :func:`main` has taken ``--debug`` out, wherever it stood."""


app.command("list")(list_)
for command in (run, sweep, quickstart, leaderboard, compare, page, show, diagnose, toy, check):
    app.command()(command)
app.command()(regenerate)
app.command()(submit)
app.command()(verify)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")


def repeated(arguments: Sequence[str]) -> list[str]:
    """Write ``--seed 0 1 2`` and ``--seed=0 1 2`` as ``--seed 0 --seed 1 --seed 2``, which is what
    click understands."""
    spread: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option and not re.match(r"-\D", argument):
            spread += [option, argument]
        elif name in LIST_OPTIONS:
            option = name
            spread += [name, value] if equals else []
        else:
            option = "" if argument.startswith("-") else option
            spread.append(argument)
    return spread


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Args:
        arguments: instead of the process's.

    Returns:
        0; 1 if a run failed or a check did, or a folder has files that are no records; 2 for a
        request that cannot be carried out; 130 after an interrupt, 143 when it was told to end.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        logging.getLogger("mtlbench").setLevel(logging.DEBUG)
    try:
        app(repeated(words), prog_name="mtlbench")
    except SystemExit as end:  # how typer ends, also after an error of its own
        return int(end.code or 0)
    except UsageError as error:
        if debug:
            raise
        if rank_and_size()[0] == 0:  # the others say the same
            aside(f"error: {error}", style="red")
        return 2
    return 0


def entry() -> None:
    """Console script; like ``python -m``, it finds a user's own modules in the current folder, and
    says what takes its time."""
    end_on_signals()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mtlbench").setLevel(logging.INFO)
    sys.path.append(os.getcwd())
    legible()
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    if code == 1:
        _let_go()
    raise SystemExit(code)


def _let_go() -> None:
    """Leave a reader alone that has gone away: Python would complain of it when it ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
