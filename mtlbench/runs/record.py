"""Records of runs: one compact JSON file a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from mtlbench.errors import UsageError
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.provenance import Provenance
from mtlbench.training.history import Number, Phase, Record, Selection, Text

Status = Literal["ok", "diverged", "failed"]

VERSION = 1
"""Of the schema."""
_STATUS = TypeAdapter[Status](Status)
_HEAD, _END = 16384, b"}\n"
"""Bytes that the fields before the phases fit into, and what a record ends with."""


class Metric(Record):
    """Name, unit and direction of one column."""

    name: str
    objective: str
    unit: str
    higher_is_better: bool


class NewerError(UsageError):
    """A record of a schema that a later mtlbench wrote: nothing is the matter with it."""


class RunRecord(Record):
    """One run. ``phases`` is empty unless ``status`` is "ok"."""

    schema_version: Literal[1] = 1
    identity: RunIdentity
    role: Literal["method", "baseline", "reference"]
    plain: bool
    """Whether the wrapper is the one that changes nothing."""
    titles: tuple[str, str]
    """Titles of the method and of the wrapper."""
    metrics: list[Metric]
    status: Status
    reason: Text = ""
    phases: list[Phase] = Field(default=[])
    step_ms: Number | None = None
    """Median time of a step, device synchronised, without data loading; summed over phases."""
    train_seconds: Number | None = None
    evaluation_seconds: Number | None = None
    peak_memory_mb: Number | None = None
    provenance: Provenance

    def scores(
        self, split: str = "test", at: Literal["selected", "last"] = "selected"
    ) -> dict[str, float]:
        """Metric values of ``split``, over all phases."""
        values: dict[str, float] = {}
        for phase in self.phases:
            values |= getattr(phase, at)[split].metrics
        return values

    def beside(self) -> tuple[Selection | None, dict[str, float]]:
        """What of the run does not count by its protocol but might, and its metric values on test;
        None where that was not kept."""
        found = [pair for phase in self.phases for pair in phase.beside.items()]
        kinds = {kind for kind, _ in found}
        if len(kinds) != 1 or len(found) < len(self.phases):
            return None, {}
        values = {name: v for _, scores in found for name, v in scores.metrics.items()}
        return kinds.pop(), values


def read_record(path: Path) -> RunRecord:
    """One record.

    Raises:
        UsageError: the file cannot be read, is no record, or is of another schema version; what is
            the matter in one line. A :class:`NewerError` if its schema is a newer one.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as error:
        newer = (_schema_version(text) or 0) > VERSION
        kind = NewerError if newer else UsageError
        raise kind(f"{path} {_matter(text, error)}") from error


def read_status(path: Path) -> Status:
    """The status of a record, of which only the beginning and the end are read.

    Raises:
        UsageError: as :func:`read_record`, as far as the two say so.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(len(head), file.seek(0, os.SEEK_END) - len(_END)))
        tail = head[-len(_END) :] + file.read()
    try:
        found = from_json(head, allow_partial=True)
        if tail.endswith(_END) and found["schema_version"] == VERSION and "phases" in found:
            return _STATUS.validate_python(found["status"])
    except (ValueError, TypeError, KeyError):
        pass
    return read_record(path).status  # written by others, or not whole


def _matter(text: bytes, error: ValidationError) -> str:
    """What is wrong with a file that is no record."""
    first, *more = error.errors()
    if not text.strip():
        return "is empty"
    if first["type"] == "json_invalid":
        said = first["msg"].removeprefix("Invalid JSON: ")
        return f"is not a run record: cut off, or no JSON ({said})"
    version = _schema_version(text)
    if version is None:
        return "is not a run record"
    if version != VERSION:
        what = "a newer mtlbench reads it" if version > VERSION else "make the run again"
        return f"is of schema version {version}; this mtlbench reads version {VERSION}: {what}"
    where = ".".join(map(str, first["loc"]))
    return f"is not a run record: {where}: {first['msg']}" + f" ({len(more)} more)" * bool(more)


def _schema_version(text: bytes) -> int | None:
    """What a file says of itself; None if it does not."""
    try:
        found = from_json(text)
    except ValueError:
        return None
    version = found.get("schema_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None
