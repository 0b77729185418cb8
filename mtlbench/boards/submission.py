"""Records that somebody hands in: packed with their digests, and held to what a row has to be."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

import mtlbench
from mtlbench.boards.build import GROUP, build
from mtlbench.boards.folder import read_folder
from mtlbench.boards.seeds import listed
from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.registry import TASKS, Spec
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import Store
from mtlbench.training.history import Record

MANIFEST = "manifest.yaml"
"""Beside the records; no JSON file, as these are records."""


class Manifest(Record):
    """What is handed in."""

    name: str
    """Of the submission."""
    mtlbench: str
    """Version that packed it."""
    records: dict[str, str]
    """File name to the SHA-256 of what is in it."""
    verified: dict[str, str] = Field(default={})
    """Files that were run again, and what came out."""

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


def pack(runs: Path, name: str, out: Path) -> Manifest:
    """Copy the records of a folder, with a manifest.

    Raises:
        UsageError: ``out`` has something else in it.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    found, _ = Store(runs).found()
    for path in found:
        shutil.copyfile(path, out / path.name)
    digests = {path.name: digest(out / path.name) for path in found}
    manifest = Manifest(name=name, mtlbench=mtlbench.__version__, records=digests)
    manifest.write(out)
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------ what is wrong
def faults(folder: Path, specs: Path) -> list[str]:
    """What keeps a packed folder from being accepted, a line each.

    Args:
        folder: made by :func:`pack`.
        specs: folder of the committed specifications.
    """
    manifest = Manifest.read(folder)
    present = {path.name for path in folder.rglob("*.json")}
    complaints = [f"{name}: is in no manifest" for name in sorted(present - set(manifest.records))]
    for name, expected in manifest.records.items():
        if name not in present:
            complaints.append(f"{name}: is in the manifest, and missing")
        elif digest(folder / name) != expected:
            complaints.append(f"{name}: was changed after it was packed (SHA-256)")
    return complaints + unacceptable(folder, specs)


def unacceptable(folder: Path, specs: Path) -> list[str]:
    """What is wrong with a folder's records, a line each, whether they are packed or not."""
    records, left_out = read_folder(folder)
    complaints = list(left_out)
    found, _ = Store(folder).found()
    for path, record in found.items():
        complaints += [f"{path.name}: {fault}" for fault in _of_one(path, record)]
    by_task: dict[str, list[RunRecord]] = {}
    for record in records:
        by_task.setdefault(record.identity.task, []).append(record)
    if not records:
        complaints.append(f"there are no records in {folder}")
    for task, mine in by_task.items():
        complaints += [f"{task}: {fault}" for fault in _of_task(task, mine, specs)]
    return complaints


def _of_one(path: Path, record: RunRecord) -> Iterator[str]:
    """What is wrong with a record by itself."""
    identity, origin = record.identity, record.provenance
    if path.stem != identity.stem:
        yield f"its identity is that of {identity.stem}.json: it was renamed or edited"
    if origin.dirty:
        yield "was made from changed files: commit them and run again"
    if not origin.commit and "mtlbench" not in origin.versions:
        yield "names neither a commit nor a version of mtlbench"
    if record.status == "failed":
        yield f"failed: {record.reason}"
    if record.status != "ok":
        return
    for phase in record.phases:
        if len(phase.epochs) != identity.epochs or not 0 <= phase.selected_epoch < identity.epochs:
            yield f"has {len(phase.epochs)} of {identity.epochs} epochs, or selects none of them"
    scores = record.scores()
    for metric in record.metrics:
        value = scores.get(metric.name, math.nan)
        share = metric.unit == "%" and metric.higher_is_better
        top = 100.0 if share else math.inf
        if not math.isfinite(value) or not 0 <= value <= top:
            yield f"{metric.name} is {value:g}, and has to be from 0 to {top:g}"


def _of_task(task: str, records: list[RunRecord], specs: Path) -> Iterator[str]:
    """What is wrong with the records of a task together."""
    path = specs / f"{task}.yaml"
    if not path.is_file():
        yield f"there is no specification {path} that its rows could be held to"
        return
    spec = SweepSpec.read(path)
    yield from _of_protocol(spec, records)
    board = build(records)[task]
    groups = list(board.groups())
    if len(groups) > 1:
        differing = [name for name in GROUP if board.rows[name].nunique() > 1]
        yield f"the records are of {len(groups)} tables: they differ in {', '.join(differing)}"
    wanted = set(spec.seeds)
    rows = board.seeds.groupby(["method_title", "method_options", "sharpness_title", "role"])
    roles = {role for (*_, role), _ in rows}
    for role in ("reference", "baseline"):
        if role not in roles:
            yield f"there is no {role}, which rows are compared with on one machine"
    for (method, options, sharpness, _), own in rows:
        missing = wanted - set(own["seed"])
        if missing:
            name = " ".join(filter(None, (str(method), str(options), f"with {sharpness}")))
            yield f"{name} lacks the seeds {listed(missing)}"


def _of_protocol(spec: SweepSpec, records: Iterable[RunRecord]) -> Iterator[str]:
    """Where records were made under another protocol than the specification's."""
    info = TASKS.get(Spec.parse(spec.tasks[0]).name).info
    wanted = spec.protocol or info.protocols[0].name
    protocol = next(p for p in info.protocols if p.name == wanted)
    expected: Mapping[str, object] = {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "epochs": spec.epochs or protocol.epochs,
        "architecture": spec.arch or protocol.arch,
    }
    for name, value in expected.items():
        others = {str(v) for r in records if (v := getattr(r.identity, name)) != value}
        if others:
            yield f"{name} is {', '.join(sorted(others))}; the specification's is {value}"
