"""The model that a run kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel, Task
from mtlbench.registry import Spec
from mtlbench.runs.record import RunRecord, read_record
from mtlbench.runs.spec import build_task
from mtlbench.runs.store import Store
from mtlbench.training.weights import read_state


@dataclass(frozen=True)
class Kept:
    """A run, its benchmark, and the network of its selected epoch.

    Args:
        path: of the record.
        data_differ: whether the data at hand are not those that it was trained on.
    """

    path: Path
    record: RunRecord
    task: Task
    model: MultiTaskModel
    data_differ: bool

    @property
    def name(self) -> str:
        """Method, wrapper, seed and epoch, for a title."""
        (phase,) = self.record.phases
        seed = self.record.identity.seed
        return f"{' x '.join(self.record.titles)}, seed {seed}, epoch {phase.selected_epoch}"


def record_at(path: Path) -> RunRecord:
    """A record.

    Raises:
        UsageError: there is none.
    """
    if not path.is_file():
        raise UsageError(f"there is no record at {path}")
    return read_record(path)


def kept(path: Path, data: Path | None) -> Kept:
    """A run with the model that it kept.

    Args:
        path: of the record.
        data: folder of the real data set.

    Raises:
        UsageError: the record is of another version of the protocol, or has no model, or one that
            does not fit.
    """
    record = record_at(path)
    if record.status != "ok":
        raise UsageError(f"{path} has no model: the run {record.status}")
    if len(record.phases) != 1:
        raise UsageError(
            f"{path} has no model: it trained {len(record.phases)}, and only a run of one keeps it"
        )
    identity = record.identity
    origin = identity.task_code.origin if identity.task_code else ""
    spec = Spec(origin or identity.task, identity.task_options)
    task, _ = build_task(spec, identity.protocol, data)
    if task.protocol.version != identity.protocol_version:
        raise UsageError(
            f"{path} is of version {identity.protocol_version} of protocol {identity.protocol!r}, "
            f"which now is version {task.protocol.version}"
        )
    file = Store(path.parent).model_path(identity)
    if not file.is_file():
        raise UsageError(
            f"{path} has no model at {file}; give the run's command again with --keep-model: "
            f"{record.provenance.command}"
        )
    model = task.build_model(identity.architecture)
    try:
        model.load_state_dict(read_state(file))
    except RuntimeError as error:
        raise UsageError(f"{file} does not fit {identity.architecture!r}: {error}") from error
    return Kept(path, record, task, model, identity.data_source != task.data_source)
