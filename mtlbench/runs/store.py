"""The folder of a sweep's records."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.record import NewerError, RunRecord, Status, read_record, read_status

CORRUPT = ".corrupt"
"""What is added to the name of a file that is no record and lies where one belongs."""

TRIALS = "trials"
_OF_RUN = re.compile(r"\.?(.+-s\d+-[0-9a-f]{12})\.")
"""How the names begin of what is there only while a run goes on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """A JSON file in a folder of records that is left out.

    Args:
        path: the file.
        reason: what is the matter with it, in one line.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class Store:
    """The folder of a sweep's records.

    Args:
        folder: where the JSON files live; subfolders are read as well, but for that of trials.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def trials(self) -> Store:
        """Where the runs are that choose options; no part of what is reported."""
        return Store(self.folder / TRIALS)

    def path(self, identity: RunIdentity) -> Path:
        """File of the run with this identity."""
        return self.folder / f"{identity.stem}.json"

    def model_path(self, identity: RunIdentity) -> Path:
        """File of the weights that the run with this identity selected, if they were kept."""
        return self.folder / "models" / f"{identity.stem}.pt"

    def checkpoint_path(self, identity: RunIdentity) -> Path:
        """File that the run with this identity goes on from, while it is not finished."""
        return self.folder / "checkpoints" / f"{identity.stem}.pt"

    def curves_path(self, identity: RunIdentity) -> Path:
        """File of a run's learning curves, while it goes on."""
        return self.folder / "curves" / f"{identity.stem}.csv"

    def gradients_path(self, identity: RunIdentity) -> Path:
        """File of the task gradients that a run logged, if it did."""
        return self.folder / "gradients" / f"{identity.stem}.csv"

    def others(self, identity: RunIdentity) -> list[Path]:
        """Records of the same words, of another version of what they mean."""
        words = identity.stem.removesuffix(identity.digest)
        found = []
        for path in sorted(self.folder.glob(f"{escape(words)}*.json")):
            with suppress(UsageError):  # which whoever makes a table is told of
                other = read_record(path).identity
                if path != self.path(identity) and identity.same_words(other):
                    found.append(path)
        return found

    def claim_path(self, identity: RunIdentity) -> Path:
        """File that is there while somebody makes the run with this identity."""
        return self.folder / f".{identity.stem}.claim"

    def write(self, record: RunRecord) -> Path:
        """Write a record whole. What a finished run left behind is replaced by no less.

        Raises:
            UsageError: the disk is full.
        """
        path = self.path(record.identity)
        if record.status != "ok" and self.status(record.identity) == "ok":
            return path
        text = record.model_dump_json() + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))
        return path

    def read(self, identity: RunIdentity) -> RunRecord | None:
        """The record with this identity, if there is one.

        Raises:
            UsageError: there is something else in its place.
        """
        path = self.path(identity)
        return read_record(path) if path.exists() else None

    def status(self, identity: RunIdentity) -> Status | None:
        """How the run with this identity ended, if it did.

        A file in its place that is no record is kept under another name, and named; nothing is
        averaged with it or written over it.

        Raises:
            NewerError: a later mtlbench made the folder.
        """
        path = self.path(identity)
        try:
            return read_status(path)
        except FileNotFoundError:
            return None
        except NewerError:
            raise
        except UsageError as error:
            with suppress(FileNotFoundError):  # another process was as quick
                logger.warning("%s; kept as %s", error, _set_aside(path).name)
            return None

    def stamp(self, identity: RunIdentity) -> tuple[int, int, int] | None:
        """Tells whether a record has been written since; None if there is none."""
        try:
            stat = self.path(identity).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def begun(self) -> set[str]:
        """Stems of the runs of which there is more than a record and a model: somebody is at them,
        or was killed."""
        kept = ("models", "gradients")
        names = [*_names(self.folder), *(n for f in kept for n in _names(self.folder / f))]
        hidden = [name for name in names if name.startswith(".")]
        hidden += _names(self.folder / "checkpoints") + _names(self.folder / "curves")
        return {match[1] for match in map(_OF_RUN.match, hidden) if match}

    def tidy(self, identity: RunIdentity) -> None:
        """Remove what a run that was killed has begun to write. Only for who has claimed it."""
        claim = self.claim_path(identity)
        for name in ("", "models", "checkpoints", "curves", "gradients"):
            for begun in _names(self.folder / name):
                if begun.startswith(f".{identity.stem}.") and begun != claim.name:
                    (self.folder / name / begun).unlink(missing_ok=True)

    def tidy_ended(self, identity: RunIdentity, status: Status) -> None:
        """Remove all of a run that has ended, but its record, its model, and what it can go on
        from. Only for who has claimed it."""
        self.tidy(identity)
        self.curves_path(identity).unlink(missing_ok=True)
        if status != "failed":  # what killed it may be mended, and the run go on from there
            self.checkpoint_path(identity).unlink(missing_ok=True)

    def remove_empty_folders(self) -> None:
        """Remove the folders of what is there only while runs go on, once they are empty."""
        for name in ("checkpoints", "curves"):
            with suppress(OSError):  # it is not there, or not empty
                (self.folder / name).rmdir()

    def found(self) -> tuple[dict[Path, RunRecord], list[Unreadable]]:
        """Every record by its file, and every other JSON file, in order of their paths."""
        records, faults = {}, []
        for path in sorted(self.folder.rglob("*.json")):
            parts = path.relative_to(self.folder).parts
            if TRIALS in parts[:-1]:
                continue
            if any(part.startswith(".") for part in parts):
                faults.append(Unreadable(path, "is hidden"))
                continue
            try:
                records[path] = read_record(path)
            except UsageError as error:
                faults.append(Unreadable(path, str(error).removeprefix(f"{path} ")))
        return records, faults

    def read_all(self) -> tuple[list[RunRecord], list[Unreadable]]:
        """Every record, and every other JSON file, in order of their paths.

        Of records of the same run the one under the run's own name is kept, or the first.
        """
        every, faults = self.found()
        kept: dict[str, tuple[Path, RunRecord]] = {}
        for path, record in every.items():
            digest = record.identity.digest
            if digest not in kept:
                kept[digest] = path, record
                continue
            other, earlier = kept[digest]
            if path.stem == record.identity.stem != other.stem:
                kept[digest], path, other = (path, record), other, path
            same = "is a copy of" if record == earlier else "is of the same run as"
            faults.append(Unreadable(path, f"{same} {other}, and left out"))
        in_order = sorted(kept.values(), key=lambda each: each[0])
        return [record for _, record in in_order], sorted(faults, key=lambda fault: fault.path)

    def __iter__(self) -> Iterator[RunRecord]:
        """The records; what else there is is named in the log."""
        records, faults = self.read_all()
        for fault in faults:
            logger.warning("%s", fault)
        return iter(records)


def _names(folder: Path) -> list[str]:
    """Names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _set_aside(path: Path) -> Path:
    """Rename a file to a name that is not taken."""
    n = 0
    while True:
        aside = path.with_name(f"{path.name}{CORRUPT}{n or ''}")
        if not aside.exists():
            return path.replace(aside)
        n += 1
