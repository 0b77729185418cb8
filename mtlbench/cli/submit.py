"""``mtlbench submit | verify``: records for others' leaderboards, and others' records."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mtlbench.cli.terminal import say
from mtlbench.errors import UsageError

SPECS = Path("leaderboards/specs")
Specs = Annotated[Path, typer.Option(help="Folder of the specifications that rows are held to.")]


def submit(
    runs: Annotated[Path, typer.Argument(help="Folder of records.")],
    name: Annotated[str, typer.Option(help="Of the submission.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; submissions/NAME by default.")
    ] = None,
    specs: Specs = SPECS,
) -> None:
    """Pack records with their digests, if they are what a leaderboard accepts."""
    from mtlbench.boards.submission import pack, unacceptable

    if not runs.is_dir():
        raise UsageError(f"there is no folder of records at {runs}")
    complain(unacceptable(runs, specs))
    folder = Path("submissions") / name if out is None else out
    manifest = pack(runs, name, folder)
    say(f"{folder}: {len(manifest.records)} records of {name}, and what they are in manifest.yaml")


def check_submission(folder: Path, specs: Path = SPECS) -> None:
    """Say whether a packed folder is acceptable; end with 1 if not."""
    from mtlbench.boards.submission import Manifest, faults

    complain(faults(folder, specs))
    manifest = Manifest.read(folder)
    n, verified = len(manifest.records), len(manifest.verified)
    say(f"{folder}: {n} records of {manifest.name}, submitted; {verified} of them verified")


def complain(complaints: list[str]) -> None:
    """Say what is wrong, and end with 1 if anything is."""
    for complaint in complaints:
        say(complaint, style="red")
    if complaints:
        raise typer.Exit(1)


def verify(
    record: Annotated[Path, typer.Argument(help="JSON file of a record.")],
    threads: Annotated[
        int | None, typer.Option(min=1, help="Torch threads; the record's by default.")
    ] = None,
) -> None:
    """Make a record's run again, and say whether the same comes out."""
    from mtlbench.boards.submission import MANIFEST, Manifest
    from mtlbench.boards.verification import compare, request
    from mtlbench.runs.execute import execute
    from mtlbench.runs.record import read_record
    from mtlbench.runs.store import Store

    known = read_record(record)
    run = request(known)
    with TemporaryDirectory() as folder:
        again = execute(run, Store(Path(folder)), threads=threads or known.provenance.threads)
    seedless = {"seed": 0}
    row = known.identity.model_copy(update=seedless)
    others, _ = Store(record.parent).read_all()
    siblings = [r for r in others if r.identity.model_copy(update=seedless) == row]
    found = compare(known, again, siblings)
    say(
        f"{record.name}: {found.outcome} (its metrics are worse by {found.change:+.3g} % on "
        f"average, tolerated are ±{found.tolerance:.3g}; made on {known.provenance.device}, again "
        f"on {again.provenance.device})"
    )
    if again.reason:
        say(again.reason, style="red")
    if found.outcome == "different":
        raise typer.Exit(1)
    if (record.parent / MANIFEST).is_file():
        manifest = Manifest.read(record.parent)
        verified = manifest.verified | {record.name: found.outcome}
        manifest.model_copy(update={"verified": verified}).write(record.parent)
