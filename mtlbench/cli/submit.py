"""``mtlbench submit | verify``: records for others' leaderboards, and others' records."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from mtlbench.cli.terminal import aside, say
from mtlbench.errors import UsageError


def submit(
    runs: Annotated[Path, typer.Argument(help="Folder of records.")],
    name: Annotated[str, typer.Option(help="Of the submission.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; FOLDER/submissions/NAME by default.")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="The leaderboard that it is for: specs, records, submissions.")
    ] = Path("leaderboards"),
) -> None:
    """Pack records with their digests, if they are what a leaderboard accepts."""
    from mtlbench.boards.submission import SUBMISSIONS, draft, pack

    if not runs.is_dir():
        raise UsageError(f"there is no folder of records at {runs}")
    found = draft(runs, folder)
    for line in found.left_out:
        aside(f"left out: {line}", style="yellow")
    complain(found.complaints)
    place = folder / SUBMISSIONS / name if out is None else out
    manifest = pack(found, name, place)
    say(f"{place}: {len(manifest.records)} records of {name}, and what they are in manifest.yaml")


def check_submission(folder: Path, boards: Path) -> None:
    """Say whether a packed folder is acceptable; end with 1 if not."""
    from mtlbench.boards.submission import Manifest, faults

    complain(faults(folder, boards))
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
    data: Annotated[
        Path | None, typer.Option(help="Folder of the real data set; the record's by default.")
    ] = None,
) -> None:
    """Make a record's run again, and say whether the same comes out."""
    from mtlbench.boards.submission import MANIFEST, Manifest, Verified, digest
    from mtlbench.boards.verification import compare, request
    from mtlbench.runs.execute import Load, execute
    from mtlbench.runs.record import read_record
    from mtlbench.runs.store import Store

    packed = (record.parent / MANIFEST).is_file()
    if packed and Manifest.read(record.parent).records.get(record.name) != digest(record):
        raise UsageError(f"{record} is not the record that was packed (SHA-256)")
    known = read_record(record)
    run = request(known, data)
    with TemporaryDirectory() as folder:
        load = Load(threads or known.provenance.threads, jobs=1)
        again = execute(run, Store(Path(folder)), load=load)
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
    if packed:
        manifest = Manifest.read(record.parent)
        entry = Verified(
            sha256=digest(record),
            **vars(found),
            device=again.provenance.device,
            commit=again.provenance.commit,
        )
        verified = manifest.verified | {record.name: entry}
        manifest.model_copy(update={"verified": verified}).write(record.parent)
