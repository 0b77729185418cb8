"""Records of runs: one compact JSON file a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mtlbench.errors import UsageError
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.provenance import Provenance
from mtlbench.training.history import Number, Phase, Record

Status = Literal["ok", "diverged", "failed"]


class Metric(Record):
    """Name, unit and direction of one column."""

    name: str
    objective: str
    unit: str
    higher_is_better: bool


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
    reason: str = ""
    phases: list[Phase] = Field(default=[])
    step_ms: Number | None = None
    """Median time of a step, device synchronised, without data loading; summed over phases."""
    train_seconds: Number | None = None
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


def read_record(path: Path) -> RunRecord:
    """One record.

    Raises:
        UsageError: the file is no record, or of another schema version.
    """
    try:
        return RunRecord.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a run record of schema version 1: {error}") from error
