"""``mtlbench regenerate``: a committed benchmark's runs, tables, picture and page, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtlbench.cli.leaderboard import print_boards, read_boards
from mtlbench.cli.options import Jobs
from mtlbench.cli.page import why
from mtlbench.cli.sweep import Retry, Threads, begin_all, end, execute_all
from mtlbench.cli.terminal import say
from mtlbench.errors import UsageError


def regenerate(
    task: Annotated[str, typer.Argument(help="Of which FOLDER/specs/TASK.yaml is.")],
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
    """Make the missing and stale runs of a committed specification, then its tables, its picture
    and the page."""
    from mtlbench.boards import tables
    from mtlbench.boards.page import page
    from mtlbench.boards.plot import plot
    from mtlbench.files import write_atomically
    from mtlbench.runs.plan import SweepSpec
    from mtlbench.runs.store import Store
    from mtlbench.runs.sweep import checked, state, unfinished

    spec = committed(task, folder)
    requests = SweepSpec.read(spec).requests()
    begin_all(requests, look=dry_run)
    runs, records = checked(requests), folder / "records"
    if dry_run:
        left = unfinished(runs, Store(records), retry=retry is not None)
        for run in left:
            say(f"{state(run, Store(records)).kind}: {run.identity.stem}")
        say(f"{len(left)} of {len(runs)} runs to make")
        return
    failed = execute_all(runs, records, jobs=jobs, threads=threads, retry=retry)
    boards, known, _ = read_boards(records)
    mine = {name: boards[name] for name in dict.fromkeys(run.identity.task for run in runs)}
    written = tables.write(mine, folder)
    for name, board in mine.items():
        written.append(folder / f"{name}.png")
        plot(board, written[-1])
    text = page(boards, known, why(folder)).encode()
    written.append(folder / "index.html")
    write_atomically(written[-1], lambda temporary: temporary.write_bytes(text))
    print_boards(mine)
    for path in written:
        say(f"wrote {path}")
    end(failed)


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
