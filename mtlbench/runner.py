"""A run: one method, one wrapper, one seed on one benchmark; from a request to a record."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mtlbench
from mtlbench.errors import DataError, DivergedError, UsageError
from mtlbench.hardware import PeakMemory, describe, pick_device
from mtlbench.interfaces import MethodInfo, SharpnessInfo, Task, TaskInfo
from mtlbench.model import MultiTaskModel, load_trunk
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec, identifying
from mtlbench.results import (
    Metric,
    Provenance,
    RunIdentity,
    RunRecord,
    Status,
    Store,
    Weights,
    write_atomically,
)
from mtlbench.step import build_pair
from mtlbench.trainer import Trainer, seeded

PACKAGES = ("torch", "torchvision", "torch-geometric", "torchmetrics", "numpy", "scipy", "cvxpy")


@dataclass(frozen=True)
class RunSpec:
    """What a user asks for. None takes the benchmark's default.

    Args:
        task: name and options of the benchmark.
        method: name and options of the weighting method.
        sharpness: name and options of the wrapper.
        seed: pairs runs: the same seed means the same initial weights, data order and noise.
        protocol: name of one of the task's protocols.
        data: folder of the real data set.
        epochs: replaces the protocol's.
        architecture: replaces the protocol's.
        device: "cpu", "cuda", ...
        weights: file of the trunk's initial weights.
        keep_model: whether the selected epoch's weights are kept beside the record; no part of what
            the run is.
    """

    task: str
    method: str
    sharpness: str | None = None
    seed: int = 0
    protocol: str | None = None
    data: Path | None = None
    epochs: int | None = None
    architecture: str | None = None
    device: str | None = None
    weights: Path | None = None
    keep_model: bool = False


@dataclass(frozen=True)
class Run:
    """A request that was checked: every name, option and file of it exists."""

    spec: RunSpec
    identity: RunIdentity
    task: Task
    method_info: MethodInfo
    sharpness_info: SharpnessInfo
    modules: tuple[str, str, str]
    """Where the task, the method and the wrapper are defined."""
    device: torch.device

    @property
    def phases(self) -> list[tuple[str, ...]]:
        """Objectives of each model that the run trains: all at once, or one after the other."""
        objectives = self.task.info.objectives
        return [(o,) for o in objectives] if self.method_info.role == "reference" else [objectives]

    @property
    def keeps_model(self) -> bool:
        """Whether its model is wanted, and it trains only one."""
        return self.spec.keep_model and len(self.phases) == 1

    @property
    def total_epochs(self) -> int:
        """Epochs over all phases."""
        return self.identity.epochs * len(self.phases)


def prepare(spec: RunSpec) -> Run:
    """Check a request and resolve its defaults.

    Raises:
        UsageError: an unknown name, an option of the wrong type or range, a missing device, weights
            that do not fit.
        DataError: the data folder is missing, incomplete or corrupt.
    """
    task, task_options = _task(spec.task, spec.protocol, spec.data, spec.epochs)
    protocol = task.protocol
    architecture = spec.architecture or protocol.arch
    if architecture not in task.info.architectures:
        raise UsageError(
            f"task {task.info.name!r} has no architecture {architecture!r}; "
            f"valid: {', '.join(task.info.architectures)}"
        )
    if not 0 <= spec.seed < 2**64:
        raise UsageError(f"seed must be from 0 to 2**64 - 1, not {spec.seed}")
    method, sharpness = Spec.parse(spec.method), Spec.parse(spec.sharpness or SHARPNESS.default)
    method_class, method_options = METHODS.resolve(method)
    sharpness_class, sharpness_options = SHARPNESS.resolve(sharpness)
    build_pair(method, sharpness, len(task.info.objectives))
    device = pick_device(spec.device)
    identity = RunIdentity(
        task=task.info.name,
        task_options=task_options,
        protocol=protocol.name,
        protocol_version=protocol.version,
        epochs=protocol.epochs,
        data_source=task.data_source,
        stand_in=task.stand_in,
        architecture=architecture,
        method=method_class.info.name,
        method_options=identifying(method_class, method_options),
        sharpness=sharpness_class.info.name,
        sharpness_options=identifying(sharpness_class, sharpness_options),
        seed=spec.seed,
        device_class=device.type,
        weights=None if spec.weights is None else _weights(task, architecture, spec.weights),
    )
    modules = type(task).__module__, method_class.__module__, sharpness_class.__module__
    return Run(spec, identity, task, method_class.info, sharpness_class.info, modules, device)


@cache
def _task(
    text: str, protocol_name: str | None, data: Path | None, epochs: int | None
) -> tuple[Task, dict[str, Any]]:
    """The benchmark; built once for all runs on it."""
    return build_task(Spec.parse(text), protocol_name, data, epochs)


def build_task(
    spec: Spec, protocol_name: str | None, data: Path | None, epochs: int | None = None
) -> tuple[Task, dict[str, Any]]:
    """The benchmark and all its options.

    Args:
        spec: its name and options.
        protocol_name: one of its protocols; None for the first.
        data: folder of the real data set.
        epochs: instead of the protocol's.

    Raises:
        UsageError: an unknown name or option.
        DataError: the data folder is missing, incomplete or corrupt.
    """
    cls, options = TASKS.resolve(spec)
    protocols = {p.name: p for p in cls.info.protocols}
    name = protocol_name or cls.info.protocols[0].name
    if name not in protocols:
        raise UsageError(
            f"task {spec.name!r} has no protocol {name!r}; valid: {', '.join(protocols)}"
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs must be at least 1, not {epochs}")
    if data is not None:
        check_folder(data, cls.info)
    protocol = protocols[name]
    if epochs is not None:
        protocol = dataclasses.replace(protocol, epochs=epochs)
    return TASKS.build(spec, protocol, data), identifying(cls, options)


def check_folder(data: Path, info: TaskInfo) -> None:
    """Refuse a data folder that is not there.

    Raises:
        DataError: it is not, and how to get the data.
    """
    if not data.is_dir():
        raise DataError(f"data folder {data} does not exist; {info.source}")


@cache
def _weights(task: Task, architecture: str, path: Path) -> Weights:
    """A file of initial weights, once it is known to fit."""
    with seeded(0):
        load_trunk(task.build_model(architecture), path)
    with path.open("rb") as file:
        return Weights(file=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def execute(run: Run, store: Store, on_epoch: Callable[[], None] = lambda: None) -> RunRecord:
    """Train, evaluate and write the record; goes on from the checkpoint of an interrupted run.

    A run that diverges or fails ends as a record that says so. Only an interrupt gets out.

    Args:
        run: what to do.
        store: where records and checkpoints go.
        on_epoch: called after every epoch.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    memory = PeakMemory(run.device)
    try:
        outcome = _train(run, store, on_epoch)
    except DivergedError as error:
        record = failure(run, "diverged", str(error), started)
    except Exception as error:  # whatever a run dies of is its result; the sweep goes on
        record = failure(run, "failed", f"{type(error).__name__}: {error}", started)
    else:
        record = _record(run, "ok", "", started, peak_memory_mb=memory.megabytes(), **outcome)
    store.write(record)
    if record.status != "failed":  # what killed it may be mended, and the run go on from there
        _checkpoint(run, store).unlink(missing_ok=True)
    return record


def failure(run: Run, status: Status, reason: str, started: str) -> RunRecord:
    """The record of a run that has no numbers."""
    return _record(run, status, reason, started)


def _train(run: Run, store: Store, on_epoch: Callable[[], None]) -> dict[str, Any]:
    """Train every phase, from the checkpoint if there is one, and keep one after every epoch."""
    path = _checkpoint(run, store)
    saved = _load(path, run.device)
    done: list[dict[str, Any]] = saved.get("done", [])
    for objectives in run.phases[len(done) :]:
        with seeded(run.spec.seed):
            trainer = Trainer(
                run.task,
                objectives,
                architecture=run.identity.architecture,
                method=Spec.parse(run.spec.method),
                sharpness=Spec.parse(run.spec.sharpness or SHARPNESS.default),
                seed=run.spec.seed,
                device=run.device,
                weights=run.spec.weights,
            )
            if "trainer" in saved:
                trainer.load_state_dict(saved.pop("trainer"))

            def keep(trainer: Trainer = trainer) -> None:
                state = {"done": done, "trainer": trainer.state_dict()}
                write_atomically(path, lambda temporary: torch.save(state, temporary))
                on_epoch()

            phase = trainer.fit(keep).model_dump()
        if run.keeps_model:
            _keep_model(trainer.model, store.model_path(run.identity))
        done.append(
            {"phase": phase, "step_ms": trainer.step_ms, "train_seconds": trainer.train_seconds}
        )
    return {
        "phases": [each["phase"] for each in done],
        "step_ms": sum(each["step_ms"] for each in done),
        "train_seconds": sum(each["train_seconds"] for each in done),
    }


def _keep_model(model: MultiTaskModel, path: Path) -> None:
    state = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def _checkpoint(run: Run, store: Store) -> Path:
    return store.folder / "checkpoints" / f"{run.identity.stem}.pt"


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load has no error type of its own for a broken file
        raise UsageError(
            f"checkpoint {path} cannot be read ({error}); delete it to start over"
        ) from error
    return state


def _record(run: Run, status: Status, reason: str, started: str, **outcome: Any) -> RunRecord:
    info = run.task.info
    return RunRecord(
        identity=run.identity,
        role=run.method_info.role,
        plain=run.sharpness_info.identity,
        titles=(run.method_info.title, run.sharpness_info.title),
        metrics=[
            Metric(
                name=m.name,
                objective=m.objective,
                unit=m.unit,
                higher_is_better=m.higher_is_better,
            )
            for m in info.metrics
        ],
        status=status,
        reason=reason,
        provenance=Provenance(
            command=command(run),
            started=started,
            device=describe(run.device),
            threads=torch.get_num_threads(),
            versions=_versions(),
            commit=_commit()[0],
            dirty=_commit()[1],
        ),
        **outcome,
    )


def command(run: Run) -> str:
    """The command line that repeats a run."""
    spec = run.spec
    words = ["mtlbench", "run", spec.task, "--method", spec.method]
    words += ["--sharpness", spec.sharpness or SHARPNESS.default, "--seed", str(spec.seed)]
    words += ["--protocol", run.identity.protocol, "--device", run.device.type]
    optional = {
        "--data": spec.data,
        "--epochs": spec.epochs,
        "--arch": spec.architecture,
        "--weights": spec.weights,
    }
    for option, value in optional.items():
        if value is not None:
            words += [option, str(value)]
    return shlex.join([*words, "--out", "runs"])


@cache
def _versions() -> dict[str, str]:
    own = {"python": platform.python_version(), "mtlbench": mtlbench.__version__}
    return own | {package: version(package) for package in PACKAGES}


@cache
def _commit() -> tuple[str, bool]:
    """Commit of the checkout that this code runs from, and whether its code differs from it; ("",
    False) outside."""
    root = Path(mtlbench.__file__).resolve().parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", root, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "", False
        changed = git(
            "status", "--porcelain", "--", "mtlbench", "tasks", "methods", "pyproject.toml"
        )
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "", False
