"""A run, from a checked request to its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mtlbench.engine.randomness import seeded
from mtlbench.errors import DivergedError
from mtlbench.hardware import PeakMemory, describe
from mtlbench.registry import SHARPNESS, Spec
from mtlbench.runs.provenance import Provenance, commit, versions
from mtlbench.runs.record import Metric, RunRecord, Status
from mtlbench.runs.spec import Run, command
from mtlbench.runs.store import Store
from mtlbench.training.checkpoint import keep_model, read_checkpoint, write_state
from mtlbench.training.history import Phase
from mtlbench.training.trainer import Trainer
from mtlbench.training.verdict import check_metrics, check_skips, origin


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
    saved = read_checkpoint(path, run.device)
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
                check_skips(trainer)
                state = {"done": done, "trainer": trainer.state_dict()}
                write_state(state, path)
                on_epoch()

            phase = _fit(trainer, keep).model_dump()
        if run.keeps_model:
            keep_model(trainer.model, store.model_path(run.identity))
        done.append(
            {"phase": phase, "step_ms": trainer.step_ms, "train_seconds": trainer.train_seconds}
        )
    return {
        "phases": [each["phase"] for each in done],
        "step_ms": sum(each["step_ms"] for each in done),
        "train_seconds": sum(each["train_seconds"] for each in done),
    }


def _fit(trainer: Trainer, keep: Callable[[], None]) -> Phase:
    """Train, and judge what came out; where the data make a training diverge, this is said."""
    try:
        phase = trainer.fit(keep)
    except DivergedError as error:
        raise DivergedError(f"{error}{origin(trainer.task, 'train', trainer.objectives)}") from None
    check_metrics(trainer, phase)
    return phase


def _checkpoint(run: Run, store: Store) -> Path:
    return store.folder / "checkpoints" / f"{run.identity.stem}.pt"


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
            versions=versions(),
            commit=commit()[0],
            dirty=commit()[1],
        ),
        **outcome,
    )
