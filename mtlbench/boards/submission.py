"""Records that somebody hands in: packed with their digests, checked, and added to a leaderboard.

A leaderboard is a folder with ``specs/``, ``records/`` and ``submissions/NAME/``, the tables beside
them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

import mtlbench
from mtlbench.boards.acceptance import is_base, unacceptable
from mtlbench.boards.folder import read_folder
from mtlbench.boards.handed_in import HandedIn, Origin
from mtlbench.boards.places import cell
from mtlbench.boards.verification import Outcome, is_same
from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import TRIALS, Store
from mtlbench.training.history import Record

MANIFEST = "manifest.yaml"
"""Beside the records; no JSON file, as these are records."""
SPECS, RECORDS, SUBMISSIONS = "specs", "records", "submissions"
"""Folders of a leaderboard."""
_NAME = re.compile(r"\w[\w.-]*")


class Verified(Record):
    """What came out when a record's run was made again here."""

    sha256: str
    """Of the record."""
    outcome: Outcome
    change: float
    """How much worse the record's metrics are, on average, in percent."""
    tolerance: float
    """The change that two draws of a seed may have."""
    device: str
    commit: str
    """Where it was made again, and with what."""


class Manifest(Record):
    """What is handed in."""

    name: str
    """Of the submission."""
    mtlbench: str
    """Version that packed it."""
    records: dict[str, str]
    """File, also of a trial, to the SHA-256 of what is in it."""
    verified: dict[str, Verified] = Field(default={})
    """Files that were run again here, and came out as they were."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a folder.

        Raises:
            UsageError: there is none, or it is none.
        """
        path = folder / MANIFEST
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise UsageError(f"{path} is not a manifest: {error}") from error

    def write(self, folder: Path) -> None:
        """Write it, all of it or nothing."""
        text = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
        write_atomically(folder / MANIFEST, lambda temporary: temporary.write_text(text))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------ packing
@dataclass(frozen=True)
class Draft:
    """What of a folder of runs would be handed in.

    Args:
        records: by file; those of the reference and the baseline among them, for step times.
        trials: by file; those that the records name.
        left_out: a line for each record of a row that the leaderboard has.
        complaints: a line for each thing that keeps it from being accepted.
    """

    records: Mapping[Path, RunRecord]
    trials: Mapping[Path, RunRecord]
    left_out: list[str]
    complaints: list[str]


def draft(runs: Path, boards: Path) -> Draft:
    """Look through a folder of runs.

    Args:
        runs: the folder.
        boards: the leaderboard that it is for.
    """
    _, faults = read_folder(runs)
    found, _ = Store(runs).found()
    kept, left_out = {}, []
    for path, record in found.items():
        known = _known(record, boards)
        if known is None or is_base(record):
            kept[path] = record
        else:
            left_out.append(f"{path.name}: the leaderboard has that run, {_numbers(record, known)}")
    named = {sha for r in kept.values() if (t := r.provenance.tuning) for sha in t.records}
    trials = {path: r for path, r in _trials(runs).items() if digest(path) in named}
    return Draft(kept, trials, left_out, faults + _unacceptable(kept, trials, boards))


def pack(found: Draft, name: str, out: Path) -> Manifest:
    """Copy the records of a draft, with a manifest.

    Raises:
        UsageError: ``out`` has something in it, or the name is none of a folder.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name of a submission: letters, digits, '-', '_' and '.'")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty")
    digests = {}
    for paths, place in ((found.records, ""), (found.trials, f"{TRIALS}/")):
        for path in paths:
            copy = out / place / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            digests[f"{place}{path.name}"] = digest(copy)
    manifest = Manifest(name=name, mtlbench=mtlbench.__version__, records=digests)
    manifest.write(out)
    return manifest


# ------------------------------------------------------------------------------------ checking
def faults(folder: Path, boards: Path) -> list[str]:
    """What keeps a packed folder from being accepted, a line each.

    Args:
        folder: made by :func:`pack`.
        boards: the leaderboard that it is for.
    """
    manifest = Manifest.read(folder)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}
    complaints = [f"{name}: is in no manifest" for name in sorted(present - set(manifest.records))]
    for name, expected in manifest.records.items():
        if name not in present:
            complaints.append(f"{name}: is in the manifest, and missing")
        elif digest(folder / name) != expected:
            complaints.append(
                f"{name}: was changed after it was packed (SHA-256); pack the record as it was made"
            )
    for name, verified in manifest.verified.items():
        if manifest.records.get(name) != verified.sha256 or verified.outcome == "different":
            complaints.append(f"{name}: is not what was verified; run mtlbench verify again")
    _, left_out = read_folder(folder)
    found, _ = Store(folder).found()
    for path, record in found.items():
        known = _known(record, boards)
        if known is not None and not is_base(record):
            has = f"the leaderboard has that run, {_numbers(record, known)}"
            complaints.append(f"{path.name}: {has}; a row is there once: leave it out")
    return complaints + left_out + _unacceptable(found, _trials(folder), boards)


def _unacceptable(
    records: Mapping[Path, RunRecord], trials: Mapping[Path, RunRecord], boards: Path
) -> list[str]:
    by_digest = {digest(path): record for path, record in trials.items()}
    return unacceptable(records, by_digest, boards / SPECS)


def _trials(folder: Path) -> dict[Path, RunRecord]:
    return Store(folder).trials.found()[0]


def _known(record: RunRecord, boards: Path) -> RunRecord | None:
    """The leaderboard's own record of a run."""
    return Store(boards / RECORDS).read(record.identity)


def _numbers(record: RunRecord, known: RunRecord) -> str:
    return f"with {'the same' if is_same(record, known) else 'other'} numbers"


# ------------------------------------------------------------------------------------ adding
def handed_in(boards: Path, own: Iterable[RunRecord]) -> tuple[HandedIn, list[str]]:
    """What the submissions of a leaderboard add to its records.

    Args:
        boards: the leaderboard.
        own: its records.

    Returns:
        All that is acceptable, and a line for each thing that is not; a submission is taken whole
        or left out whole.
    """
    seen = {cell(record): RECORDS for record in own}
    records: list[RunRecord] = []
    bases: list[RunRecord] = []
    origins: dict[tuple[Any, ...], Origin] = {}
    complaints: list[str] = []
    for manifest in sorted((boards / SUBMISSIONS).glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        found = {} if (wrong := _faults(folder, boards)) else Store(folder).found()[0]
        for path, record in found.items():
            before = seen.get(cell(record))
            if before is not None and not is_base(record):
                wrong.append(f"{path.name}: the same run is in {before}; a row is there once")
        complaints += [f"{folder}: {each}" for each in wrong]
        if wrong:
            continue
        verified = Manifest.read(folder).verified
        for path, record in found.items():
            place = cell(record)
            if place in seen:
                bases += [record] if record.role == "baseline" else []
                continue
            seen[place] = f"{SUBMISSIONS}/{folder.name}"
            records.append(record)
            origins[place] = "verified" if path.name in verified else "submitted"
    return HandedIn(records, origins, bases), complaints


def _faults(folder: Path, boards: Path) -> list[str]:
    try:
        return faults(folder, boards)
    except UsageError as error:
        return [str(error)]
