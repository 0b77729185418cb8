"""The folder of a sweep's records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mtlbench.files import write_atomically
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.record import RunRecord, read_record


class Store:
    """The folder of a sweep's records.

    Args:
        folder: where the JSON files live; subfolders are read as well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: RunIdentity) -> Path:
        """File of the run with this identity."""
        return self.folder / f"{identity.stem}.json"

    def model_path(self, identity: RunIdentity) -> Path:
        """File of the weights that the run with this identity selected, if they were kept."""
        return self.folder / "models" / f"{identity.stem}.pt"

    def write(self, record: RunRecord) -> Path:
        """Write a record whole."""
        path = self.path(record.identity)
        text = record.model_dump_json() + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))
        return path

    def read(self, identity: RunIdentity) -> RunRecord | None:
        """The record with this identity, if there is one."""
        path = self.path(identity)
        return read_record(path) if path.exists() else None

    def __iter__(self) -> Iterator[RunRecord]:
        return iter([read_record(path) for path in sorted(self.folder.rglob("*.json"))])
