"""Made-up records, for tests of what is built from records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.provenance import Provenance
from mtlbench.runs.record import Metric, RunRecord
from mtlbench.training.history import Epoch, Phase, Scores

METRICS = [
    Metric(name="accuracy", objective="left", unit="%", higher_is_better=True),
    Metric(name="error", objective="right", unit="mm", higher_is_better=False),
]


def scores(values: Mapping[str, float]) -> Scores:
    return Scores(metrics=dict(values), losses={"left": 0.5, "right": 0.25})


def phase(
    values: Mapping[str, float], last: Mapping[str, float] | None = None, passes: float = 1.0
) -> Phase:
    """A phase whose test scores are ``values`` at the selected epoch and ``last`` at the end."""
    selected, final = scores(values), scores(values if last is None else last)
    epoch = Epoch(
        train_losses={"left": 0.5, "right": 0.25},
        val=selected,
        selection_score=1.0,
        step_ms=2.0,
        skipped_steps=0,
    )
    return Phase(
        objectives=["left", "right"],
        epochs=[epoch],
        selected_epoch=3,
        last=dict.fromkeys(("train", "val", "test"), final),
        selected=dict.fromkeys(("train", "val", "test"), selected),
        forwards_per_step=passes,
        backwards_per_step=passes,
        head_backwards_per_step=0.0,
        diagnostics={},
    )


def identity(**changes: Any) -> RunIdentity:
    """An identity, by default that of the unwrapped baseline with seed 0."""
    fields: dict[str, Any] = {
        "task": "digits",
        "task_options": {},
        "protocol": "mini",
        "protocol_version": 1,
        "epochs": 5,
        "data_source": "made-up digits",
        "stand_in": False,
        "architecture": "tiny",
        "method": "sum",
        "method_options": {},
        "sharpness": "plain",
        "sharpness_options": {},
        "seed": 0,
        "device_class": "cpu",
    }
    return RunIdentity(**fields | changes)


ROLES = {"single": "reference", "sum": "baseline"}


def record(
    accuracy: float = 80.0,
    error: float = 2.0,
    *,
    last: tuple[float, float] | None = None,
    step_ms: float | None = 10.0,
    status: str = "ok",
    reason: str = "",
    device: str = "some CPU",
    metrics: list[Metric] | None = None,
    **changes: Any,
) -> RunRecord:
    """A record; ``changes`` go into its identity. "single" is the reference, "sum" the baseline."""
    who = identity(**changes)
    values = {"accuracy": accuracy, "error": error}
    final = None if last is None else {"accuracy": last[0], "error": last[1]}
    ok = status == "ok"
    return RunRecord.model_validate(
        {
            "identity": who,
            "role": ROLES.get(who.method, "method"),
            "plain": who.sharpness == "plain",
            "titles": (who.method.upper(), who.sharpness),
            "metrics": METRICS if metrics is None else metrics,
            "status": status,
            "reason": reason,
            "phases": [phase(values, final)] if ok else [],
            "step_ms": step_ms if ok else None,
            "train_seconds": 1.5 if ok else None,
            "peak_memory_mb": 100.0 if ok else None,
            "provenance": provenance(device),
        }
    )


def provenance(device: str = "some CPU") -> Provenance:
    return Provenance(
        command="mtlbench run digits",
        started="2026-01-01T00:00:00+00:00",
        device=device,
        threads=1,
        versions={"torch": "2.9.0"},
        commit="0123456789ab",
        dirty=False,
    )
