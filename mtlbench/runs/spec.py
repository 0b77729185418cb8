"""A request for a run, and the run that it is once everything in it was checked."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from mtlbench.data import check_folder
from mtlbench.engine.numerics import USUAL, Numerics
from mtlbench.engine.randomness import seeded
from mtlbench.engine.stream import RowsMode
from mtlbench.errors import DataError, UsageError
from mtlbench.hardware import pick_device
from mtlbench.interfaces import MethodInfo, SharpnessInfo, Task
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Spec, identifying
from mtlbench.runs.code import code_of, code_of_all
from mtlbench.runs.content import content_of
from mtlbench.runs.identity import Among, RunIdentity, Weights
from mtlbench.runs.provenance import Tuning
from mtlbench.training.stepper import ROWS, SCALES, build_pair
from mtlbench.training.weights import load_trunk

T = TypeVar("T")


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
        lr: learning rate that training begins with; replaces the protocol's.
        tuning: how its options were chosen, for the record; no part of what the run is.
        numerics: how the network's passes are computed.
        ranks: processes that train together, each with its part of every batch.
        rows: "auto", "whole", "streamed" or "sharded", see
            :class:`~mtlbench.training.stepper.Stepper`; no part of what the run is, as the numbers
            differ by rounding, as with threads.
        gradient_scale: replaces the protocol's.
        clip_norm: replaces the protocol's.
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
    lr: float | None = None
    tuning: Tuning | None = None
    numerics: Numerics = USUAL
    ranks: int = 1
    rows: RowsMode = "auto"
    gradient_scale: str | None = None
    clip_norm: float | None = None


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
            that do not fit. Whether method and wrapper go together is seen by :func:`check_pair`.
        DataError: the data folder is missing, incomplete or corrupt.
    """
    task, task_options, content = _task(spec.task, spec.protocol, spec.data, spec.epochs)
    method_class, method_options = METHODS.resolve(Spec.parse(spec.method))
    usual = task.protocol
    if method_class.info.role == "reference":
        task = _alone(task, spec.epochs)
    protocol = task.protocol
    architecture = spec.architecture or protocol.arch
    if architecture not in task.info.architectures:
        raise UsageError(
            f"task {task.info.name!r} has no architecture {architecture!r}; "
            f"valid: {', '.join(task.info.architectures)}"
        )
    if not 0 <= spec.seed < 2**64:
        raise UsageError(f"seed must be from 0 to 2**64 - 1, not {spec.seed}")
    if spec.lr is not None and not 0 < spec.lr < math.inf:
        raise UsageError(f"lr must be greater than 0, not {spec.lr:g}")
    if spec.rows not in ROWS:
        raise UsageError(f"unknown rows {spec.rows!r}; valid: {', '.join(ROWS)}")
    if spec.clip_norm is not None and not 0 < spec.clip_norm < math.inf:
        raise UsageError(f"clip_norm must be greater than 0, not {spec.clip_norm:g}")
    if spec.gradient_scale not in (None, *SCALES):
        valid = ", ".join(SCALES)
        raise UsageError(f"gradient_scale must be one of {valid}, not {spec.gradient_scale!r}")
    _check_ranks(spec, protocol.batch_size)
    among = Among(architecture=spec.architecture or usual.arch, epochs=usual.epochs)
    alike = (among.architecture, among.epochs) == (architecture, protocol.epochs)
    wrapper = spec.sharpness or SHARPNESS.default
    sharpness_class, sharpness_options = SHARPNESS.resolve(Spec.parse(wrapper))
    device = pick_device(spec.device)
    spec.numerics.check(device)
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
        lr=_other(spec.lr, protocol.lr),
        data_sha256=content,
        task_code=code_of(type(task)),
        method_code=code_of_all(method_class, METHODS.nested(method_class, method_options)),
        sharpness_code=code_of(sharpness_class),
        numerics=spec.numerics,
        gradient_scale=_other(spec.gradient_scale, protocol.gradient_scale),
        clip_norm=_other(spec.clip_norm, protocol.clip_norm),
        without_weights=bool(protocol.weights) and spec.weights is None,
        among=None if alike else among,
        ranks=spec.ranks,
    )
    modules = type(task).__module__, method_class.__module__, sharpness_class.__module__
    return Run(spec, identity, task, method_class.info, sharpness_class.info, modules, device)


def _other(asked: T | None, usual: T | None) -> T | None:
    """What was asked for, unless the protocol has it anyway."""
    return None if asked == usual else asked


def _check_ranks(spec: RunSpec, batch_size: int) -> None:
    """Refuse what several processes cannot do together.

    Raises:
        UsageError: this is such a request.
    """
    if spec.ranks == 1:
        if spec.rows == "sharded":
            raise UsageError("--rows sharded is for several processes: take streamed on one")
        return
    if batch_size < 2 * spec.ranks:
        raise UsageError(
            f"{spec.ranks} processes for batches of {batch_size}, and each needs 2 examples: "
            "start fewer"
        )
    if spec.numerics.accumulate > 1 or spec.rows == "streamed":
        raise UsageError(
            "several processes go neither with --accumulate nor with --rows streamed: leave it out"
        )


@cache
def _alone(task: Task, epochs: int | None) -> Task:
    """A benchmark under its protocol for tasks that are trained alone, on the same data."""
    protocol = task.protocol.of_reference()
    if protocol is task.protocol:
        return task
    alone = copy.copy(task)
    alone.protocol = protocol if epochs is None else dataclasses.replace(protocol, epochs=epochs)
    return alone


def check_pair(run: Run) -> None:
    """Refuse a method and a wrapper that do not go together, or that refuse their options.

    Both are made for it, and torch imports much for optimizers: not for runs that are done.

    Raises:
        UsageError: see :func:`~mtlbench.training.stepper.build_pair`.
    """
    wrapper = run.spec.sharpness or SHARPNESS.default
    _check_pair(run.spec.method, wrapper, len(run.task.info.objectives))


@cache
def _check_pair(method: str, sharpness: str, n_tasks: int) -> None:
    build_pair(Spec.parse(method), Spec.parse(sharpness), n_tasks)


@cache
def _task(
    text: str, protocol_name: str | None, data: Path | None, epochs: int | None
) -> tuple[Task, dict[str, Any], str]:
    """The benchmark, its options, and the hash of its data; made once for all runs on it."""
    task, options = build_task(Spec.parse(text), protocol_name, data, epochs)
    named = [path for path in options.values() if isinstance(path, Path) and path.exists()]
    return task, options, content_of(named if data is None else [data, *named])


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
    protocol = cls.info.protocol(protocol_name or None)
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs must be at least 1, not {epochs}")
    if data is not None:
        check_folder(data, cls.info)
    if epochs is not None:
        protocol = dataclasses.replace(protocol, epochs=epochs)
    try:
        task = TASKS.build(spec, protocol, data)
    except (TypeError, AttributeError) as error:  # what a None in the folder's place leads to
        if data is not None:
            raise
        raise DataError(
            f"task {spec} cannot be made without --data ({cls.info.source}): {error}; --debug says "
            "where"
        ) from error
    return task, identifying(cls, options)


@cache
def _weights(task: Task, architecture: str, path: Path) -> Weights:
    """A file of initial weights, once it is known to fit."""
    with seeded(0):
        load_trunk(task.build_model(architecture), path)
    with path.open("rb") as file:
        return Weights(file=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def command(run: Run) -> str:
    """The command line that repeats a run."""
    spec = run.spec
    start = ["mtlbench"]
    if spec.ranks > 1:
        start = ["torchrun", "--nproc_per_node", str(spec.ranks), "-m", "mtlbench"]
    words = [*start, "run", spec.task, "--method", spec.method]
    words += ["--sharpness", spec.sharpness or SHARPNESS.default, "--seed", str(spec.seed)]
    words += ["--protocol", run.identity.protocol, "--device", run.device.type]
    optional = {
        "--data": spec.data,
        "--epochs": spec.epochs,
        "--arch": spec.architecture,
        "--weights": spec.weights,
        "--lr": run.identity.lr,
        "--rows": None if spec.rows == "auto" else spec.rows,
        "--gradient-scale": run.identity.gradient_scale,
        "--clip-norm": run.identity.clip_norm,
    }
    for option, value in optional.items():
        if value is not None:
            words += [option, str(value)]
    return shlex.join([*words, *spec.numerics.words, "--out", "runs"])
