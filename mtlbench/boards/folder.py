"""A folder of records as it is found: what can be used of it, and what is left out and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtlbench.boards.build import cell
from mtlbench.errors import UsageError
from mtlbench.runs.record import RunRecord, read_record


def read_folder(folder: Path) -> tuple[list[RunRecord], list[str]]:
    """The records of a folder and its subfolders that make a board together.

    Of several records of one run the latest is taken, and of those as late the one that has the
    run's file name.

    Returns:
        The records in the order of their files, and one line for each file that is left out.
    """
    found, faults = _readable(folder)
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


def _readable(folder: Path) -> tuple[dict[Path, RunRecord], list[str]]:
    found, faults = {}, []
    for path in sorted(folder.rglob("*.json")):
        try:
            found[path] = read_record(path)
        except (UsageError, OSError) as error:
            faults.append(f"{path} is no run record: {_in_short(error)}")
    return found, faults


def _in_short(error: Exception) -> str:
    """One line, without the validator's dump."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return "; ".join(_lines(cause))
    return " ".join(str(cause or error).split())


def _lines(error: ValidationError, most: int = 2) -> Iterator[str]:
    """The first of a validator's complaints."""
    complaints = error.errors(include_url=False, include_input=False)
    for complaint in complaints[:most]:
        where = ".".join(map(str, complaint["loc"]))
        yield f"{where}: {complaint['msg']}" if where else complaint["msg"]
    if len(complaints) > most:
        yield f"and {len(complaints) - most} more"
