"""A run, from a checked request to its record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

import torch

from mtlbench.data.loader import default_workers
from mtlbench.engine import reduce
from mtlbench.engine.numerics import deterministic
from mtlbench.engine.randomness import seeded
from mtlbench.engine.reduce import Ranks
from mtlbench.errors import DivergedError, UsageError
from mtlbench.hardware import PeakMemory, describe, torch_threads
from mtlbench.processes import LIMIT
from mtlbench.registry import METHODS, SHARPNESS, Spec
from mtlbench.runs.code import published
from mtlbench.runs.curves import Curves, gradient_options
from mtlbench.runs.events import Event, StoppedError, Watch, unwatched
from mtlbench.runs.gradients import GradientFile
from mtlbench.runs.provenance import Provenance, commit, source, versions
from mtlbench.runs.record import Metric, RunRecord, Status
from mtlbench.runs.spec import Run, command
from mtlbench.runs.store import Store
from mtlbench.training.checkpoint import Checkpoints, keep_model
from mtlbench.training.history import Phase
from mtlbench.training.trainer import Trainer
from mtlbench.training.verdict import check_metrics, check_skips, origin

ASKED = re.compile(r"[Tt]ried to allocate (\d[\d.]*) (\w+)")
"""What torch's allocators say of a request that they cannot meet."""


@dataclass(frozen=True)
class Load:
    """What a run computes with, and beside.

    Args:
        threads: of torch, which numbers depend on.
        jobs: runs that are made at a time, which step times depend on; None where nobody knows.
        workers: processes that fetch its batches ahead; None for as many as pay.
        limit: seconds that processes which train it together wait for each other.
    """

    threads: int = 1
    jobs: int | None = None
    workers: int | None = None
    limit: float = LIMIT


@dataclass(frozen=True)
class Watching:
    """What is told of a run, and kept of it, while it goes on.

    Args:
        watch: hears of its events, and may stop it.
        checkpoint_seconds: least time between two checkpoints; there is one at most an epoch.
        logs: where its learning curves go besides a CSV file, and whether its task gradients are
            logged: of :data:`.curves.LOGS`, with options.
    """

    watch: Watch = unwatched
    checkpoint_seconds: float = 60.0
    logs: tuple[str, ...] = ()


UNWATCHED = Watching()
ALONE = Load()


def execute(
    run: Run,
    store: Store,
    watching: Watching = UNWATCHED,
    load: Load = ALONE,
    ranks: Ranks = reduce.ALONE,
) -> RunRecord:
    """Train, evaluate and write the record; goes on from the checkpoint of an interrupted run.

    A run that diverges or fails ends as a record that says so, but for a finished one that was to
    be made again. Only an interrupt and a full disk get out.

    Args:
        run: what to do.
        store: where records and checkpoints go.
        watching: what is told and kept meanwhile.
        load: what it computes with; torch's threads are restored afterwards.
        ranks: the processes that train it together, as many as it is a run of; the first writes.

    Raises:
        StoppedError: whoever watches stopped it, and its checkpoint is written.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    memory = PeakMemory(run.device)
    curves = Curves(store.curves_path(run.identity), watching.logs)
    with torch_threads(load.threads), deterministic(run.identity.numerics.deterministic):
        try:
            outcome = _train(run, store, watching, curves, _workers(run, load), ranks)
        except StoppedError:
            raise
        except DivergedError as error:
            record = failure(run, "diverged", str(error), started, load)
        except Exception as error:  # whatever a run dies of is its result; the sweep goes on
            record = failure(run, "failed", why(error, run), started, load)
        else:
            outcome["peak_memory_mb"] = memory.megabytes()
            record = _record(run, "ok", "", started, load, **outcome)
    store.write(record)
    curves.end()
    store.tidy_ended(run.identity, record.status)
    return record


def why(error: Exception, run: Run) -> str:
    """What a record says of the error that a run died of."""
    asked = ASKED.search(str(error)) if isinstance(error, RuntimeError) else None
    if asked is None and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f"{type(error).__name__}: {error}"
    what = str(error).partition("\n")[0]
    if asked is not None:
        size, unit = asked.groups()
        size, unit = (f"{int(size) / 2**30:.4g}", "GiB") if unit == "bytes" else (size, unit)
        what = f"{size} {unit} were asked for"
    return f"out of memory: {what}; {_less(run)}"


def _less(run: Run) -> str:
    """What would make a run need less memory."""
    wrapper = SHARPNESS.build(run.spec.sharpness or SHARPNESS.default)
    if run.method_info.streams and wrapper.common_point and run.spec.rows != "streamed":
        return "--rows streamed holds a part of the gradients at a time"
    return "a protocol with smaller batches or a smaller --arch needs less"


def failure(run: Run, status: Status, reason: str, started: str, load: Load) -> RunRecord:
    """The record of a run that has no numbers."""
    return _record(run, status, reason, started, load)


def follow(run: Run, store: Store, load: Load, ranks: Ranks) -> None:
    """Train a run beside the process that has it to :func:`execute`, and write nothing.

    Raises:
        Exception: whatever a run dies of, but for a training that diverges, as it does everywhere.
    """
    with torch_threads(load.threads), deterministic(run.identity.numerics.deterministic):
        try:
            _train(run, store, UNWATCHED, None, _workers(run, load), ranks)
        except DivergedError:
            return


def _workers(run: Run, load: Load) -> int:
    if load.workers is not None:
        return load.workers
    jobs = (load.jobs or 1) * run.identity.ranks
    return default_workers(run.device, on_disk=run.spec.data is not None, jobs=jobs)


def _train(
    run: Run, store: Store, watching: Watching, curves: Curves | None, workers: int, ranks: Ranks
) -> dict[str, Any]:
    """Train every phase, from the checkpoint if there is one; without ``curves`` nothing is
    written."""
    checkpoints = Checkpoints(store.checkpoint_path(run.identity), watching.checkpoint_seconds)
    saved = checkpoints.read()
    done: list[dict[str, Any]] = saved.get("done", [])
    if ranks.size != run.identity.ranks:
        raise UsageError(f"a run of {run.identity.ranks} processes, and there are {ranks.size}")
    begun = len(saved.get("trainer", {}).get("history", ()))
    ranks.agree({"what is in the checkpoint": f"{len(done)} phases and {begun} epochs"})
    options = gradient_options(watching.logs)
    gradients = options and GradientFile(store.gradients_path(run.identity), options)
    for number, objectives in enumerate(run.phases[len(done) :], start=len(done)):
        with seeded(run.spec.seed, run.device):
            trainer = Trainer(
                run.task,
                objectives,
                architecture=run.identity.architecture,
                method=Spec.parse(run.spec.method),
                sharpness=Spec.parse(run.spec.sharpness or SHARPNESS.default),
                seed=run.spec.seed,
                device=run.device,
                weights=run.spec.weights,
                lr=run.identity.lr,
                gradient_scale=run.identity.gradient_scale,
                clip_norm=run.identity.clip_norm,
                numerics=run.identity.numerics,
                rows=run.spec.rows,
                workers=workers,
                ranks=ranks,
            )
            if "trainer" in saved:
                trainer.load_state_dict(saved.pop("trainer"))
            if curves is not None:
                curves.begin(number, objectives, trainer.history)
            if gradients:
                gradients.begin(number, objectives, len(trainer.history))
                trainer.log = gradients.log

            def state(trainer: Trainer = trainer) -> dict[str, Any]:
                return {"done": done, "trainer": trainer.state_dict()}

            def keep(
                trainer: Trainer = trainer, before: int = number * run.identity.epochs
            ) -> None:
                check_skips(trainer)
                if curves is None:
                    return
                latest, epochs = trainer.history[-1], len(trainer.history)
                curves.add(epochs - 1, latest)
                if gradients:
                    gradients.add(epochs - 1)
                written = checkpoints.offer(state)
                loss = fmean(latest.train_losses.values())
                try:
                    watching.watch(Event("epoch", before + epochs, loss))
                except StoppedError:
                    if not written:
                        checkpoints.write(state())
                    raise

            phase = _fit(trainer, keep, lambda: watching.watch(Event("step"))).model_dump()
        if run.keeps_model and curves is not None:
            keep_model(trainer.model, store.model_path(run.identity))
        done.append(
            {
                "phase": phase,
                "step_ms": trainer.step_ms,
                "train_seconds": trainer.train_seconds,
                "evaluation_seconds": trainer.evaluation_seconds,
            }
        )
    if gradients:
        gradients.end()
    summed = ("step_ms", "train_seconds", "evaluation_seconds")
    return {"phases": [each["phase"] for each in done]} | {
        name: sum(each[name] for each in done) for name in summed
    }


def _fit(trainer: Trainer, keep: Callable[[], None], begun: Callable[[], None]) -> Phase:
    """Train, and judge what came out; where the data make a training diverge, this is said."""
    try:
        phase = trainer.fit(keep, begun)
    except DivergedError as error:
        raise DivergedError(f"{error}{origin(trainer.task, 'train', trainer.objectives)}") from None
    check_metrics(trainer, phase)
    return phase


def _record(
    run: Run, status: Status, reason: str, started: str, load: Load, **outcome: Any
) -> RunRecord:
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
            threads=load.threads,
            versions=versions(),
            commit=commit()[0],
            dirty=commit()[1],
            source=source(),
            code=_code(run),
            jobs=load.jobs,
            tuning=run.spec.tuning,
        ),
        **outcome,
    )


def _code(run: Run) -> dict[str, str]:
    """The classes of the run that are not built in, and what they are."""
    wrapper = run.spec.sharpness or SHARPNESS.default
    method, sharpness = (
        registry.get(Spec.parse(text).name)
        for registry, text in ((METHODS, run.spec.method), (SHARPNESS, wrapper))
    )
    classes = (type(run.task), method, sharpness)
    codes = (run.identity.task_code, run.identity.method_code, run.identity.sharpness_code)
    return {
        code.origin: said
        for code, cls in zip(codes, classes, strict=True)
        if code is not None and (said := published(cls))
    }
