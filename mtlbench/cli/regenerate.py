"""``mtlbench regenerate``: a committed benchmark's runs, tables, picture and page, made again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtlbench.cli.leaderboard import print_boards, read_boards
from mtlbench.cli.options import Jobs
from mtlbench.cli.sweep import (
    Retry,
    Threads,
    begin_all,
    end,
    execute_all,
    execute_trials,
    to_report,
)
from mtlbench.cli.terminal import say
from mtlbench.errors import UsageError

if TYPE_CHECKING:
    from mtlbench.runs.spec import Run
    from mtlbench.runs.store import Store


def regenerate(
    task: Annotated[
        str | None,
        typer.Argument(help="Of which FOLDER/specs/TASK.yaml is. Without, no run is made."),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Leaderboards: specs, records, tables, the page.")
    ] = Path("leaderboards"),
    jobs: Jobs = None,
    threads: Threads = 1,
    retry: Retry = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which runs are missing or stale, and stop.")
    ] = False,
) -> None:
    """Make the missing and stale runs of a committed specification, then its tables, its picture,
    the page, and README.md where there is a README.md.jinja. Without a task, make these of all
    records as they are."""
    if task is None:
        rebuild(folder)
        return
    from mtlbench.runs.plan import SweepSpec
    from mtlbench.runs.store import Store
    from mtlbench.runs.sweep import checked
    from mtlbench.runs.tune import trials

    spec, store = SweepSpec.read(committed(task, folder)), Store(folder / "records")
    begin_all(spec.requests(), look=dry_run)
    tried = checked(trials(spec))
    execute = partial(execute_all, jobs=jobs, threads=threads, retry=retry)
    if not dry_run:
        execute_trials(tried, store, execute)
    runs = checked(to_report(spec, store))
    if dry_run:
        for what, some, place in (("trials", tried, store.trials), ("runs", runs, store)):
            if some:
                _say_left(what, some, place, retry=retry is not None)
        return
    failed = execute(runs, store.folder)
    rebuild(folder, list(dict.fromkeys(run.identity.task for run in runs)))
    end(failed)


def _say_left(what: str, runs: Sequence[Run], store: Store, *, retry: bool) -> None:
    from mtlbench.runs.sweep import state, unfinished

    left = unfinished(runs, store, retry=retry)
    for run in left:
        say(f"{state(run, store).kind}: {run.identity.stem}")
    say(f"{len(left)} of {len(runs)} {what} to make")


def rebuild(folder: Path, tasks: Sequence[str] | None = None) -> None:
    """Write what follows from a folder's records, the tables of some tasks or of all."""
    from mtlbench.boards.outputs import write

    boards, known, _ = read_boards(folder / "records")
    wanted = list(boards) if tasks is None else tasks
    print_boards({name: boards[name] for name in wanted})
    for path in write(boards, known, folder, wanted):
        say(f"wrote {path}")


def committed(task: str, folder: Path) -> Path:
    """The specification behind a table.

    Raises:
        UsageError: there is none.
    """
    specs = folder / "specs"
    path = specs / f"{task}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in specs.glob("*.yaml"))) or "no file"
        raise UsageError(f"there is no {path}; there are: {known}")
    return path
