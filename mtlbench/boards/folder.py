"""A folder of records as it is found: what can be used of it, and what is left out and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtlbench.boards.places import cell
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import Store


def read_folder(folder: Path) -> tuple[list[RunRecord], list[str]]:
    """The records of a folder and its subfolders that make a board together.

    Of several records of one run the latest is taken, and of those as late the one that has the
    run's file name.

    Returns:
        The records in the order of their files, and one line for each file that is left out.
    """
    found, unreadable = Store(folder).found()
    faults = list(map(str, unreadable))
    same: dict[tuple[Any, ...], list[Path]] = {}
    for path, record in found.items():
        same.setdefault(cell(record), []).append(path)
    for paths in same.values():
        taken = max(paths, key=lambda path: _precedence(path, found[path]))
        for path in paths:
            if path != taken:
                faults.append(f"{path} is another record of the run in {taken}; delete one of them")
                del found[path]
    return list(found.values()), faults


def _precedence(path: Path, record: RunRecord) -> tuple[str, bool]:
    return record.provenance.started, path.stem == record.identity.stem
