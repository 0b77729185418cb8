"""Records of runs: one compact JSON file a run, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from mtlbench.errors import UsageError

Status = Literal["ok", "diverged", "failed"]
Number = Annotated[float, AfterValidator(lambda value: float(f"{value:.7g}"))]
"""Seven digits: all that single precision has, at half the size of a file."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Weights(_Record):
    """A file of initial weights."""

    file: str
    """Its name, without folders."""
    sha256: str


class RunIdentity(_Record):
    """Everything that decides a run's numbers; two runs with the same identity are the same run."""

    task: str
    task_options: dict[str, Any]
    protocol: str
    protocol_version: int
    epochs: int
    data_source: str
    stand_in: bool
    architecture: str
    method: str
    method_options: dict[str, Any]
    sharpness: str
    sharpness_options: dict[str, Any]
    seed: int
    device_class: str
    weights: Weights | None = None
    """Of the trunk, where they are not random."""

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the identity.

        A field at its default counts for nothing: it was added after runs had been recorded.
        """
        text = json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return (
            f"{self.task}-{self.protocol}-{self.method}-{self.sharpness}-s{self.seed}-{self.digest}"
        )


class Metric(_Record):
    """Name, unit and direction of one column."""

    name: str
    objective: str
    unit: str
    higher_is_better: bool


class Scores(_Record):
    """One evaluation of a model: metric values and mean losses of a split."""

    metrics: dict[str, Number]
    losses: dict[str, Number]


class Epoch(_Record):
    """What one epoch of training left behind."""

    train_losses: dict[str, Number]
    val: Scores
    selection_score: Number
    step_ms: Number
    """Median of the epoch's timed steps; NaN where none was timed."""
    skipped_steps: int


class Phase(_Record):
    """One trained model. A run is one phase; a reference run has one a task."""

    objectives: list[str]
    epochs: list[Epoch]
    selected_epoch: int
    last: dict[str, Scores]
    """Scores by split (train, val, test) after the last epoch."""
    selected: dict[str, Scores]
    """Scores by split at the selected epoch."""
    forwards_per_step: Number
    backwards_per_step: Number
    head_backwards_per_step: Number
    diagnostics: dict[str, Number]


class Provenance(_Record):
    """Where a run's numbers come from."""

    command: str
    started: str
    device: str
    threads: int
    versions: dict[str, str]
    commit: str
    dirty: bool


class RunRecord(_Record):
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
    phases: list[Phase] = []
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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Refuse an output folder before any work is put into it.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"output folder {folder} cannot be written to: {error.strerror}"
        ) from error


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


def read_record(path: Path) -> RunRecord:
    """One record.

    Raises:
        UsageError: the file is no record, or of another schema version.
    """
    try:
        return RunRecord.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a run record of schema version 1: {error}") from error
