"""Where runs are executed: the same numbers everywhere, and what a death costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtlbench.runs.backends import Backend
from mtlbench.runs.backends.here import Here
from mtlbench.runs.backends.local import Local, least_loaded
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep
from tests.test_runner import numbers
from tests.toy_task import TOY

METHODS = ("ls", "stl", "fairgrad", "uw")


def runs(*methods: str, fault: str = "") -> list[Run]:
    return checked(RunSpec(f"{TOY}:{fault}", method, device="cpu") for method in methods)


def swept(wanted: list[Run], folder: Path, backend: Backend) -> dict[str, RunRecord]:
    found: dict[str, RunRecord] = {}

    def on_record(run: Run, record: RunRecord) -> None:
        assert run.spec.method not in found
        found[run.spec.method] = record

    sweep(wanted, Store(folder), backend, on_record=on_record)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Numbers of each run in a process of its own."""
    folder = tmp_path_factory.mktemp("alone")
    return {m: numbers(swept(runs(m), folder / m, Local(1))[m]) for m in METHODS}


@pytest.mark.parametrize(
    ("backend", "order"),
    [
        (Here(), METHODS),
        (Local(1), METHODS),
        (Local(1), METHODS[::-1]),
        (Local(2), METHODS),
    ],
    ids=["here", "one worker", "the other way round", "two workers"],
)
def test_numbers_are_the_same_everywhere(
    backend: Backend, order: tuple[str, ...], alone: dict[str, Any], tmp_path: Path
) -> None:
    found = swept(runs(*order), tmp_path, backend)
    assert {method: numbers(record) for method, record in found.items()} == alone


def test_a_death_costs_the_run_that_died(tmp_path: Path, alone: dict[str, Any]) -> None:
    mixed = [*runs("ls"), *runs("mgda", fault="fault=kill"), *runs("stl", "fairgrad")]
    found = swept(mixed, tmp_path, Local(1))
    assert {method: record.status for method, record in found.items()} == {
        "ls": "ok",
        "mgda": "failed",
        "stl": "ok",
        "fairgrad": "ok",
    }
    assert "exit code -9" in found["mgda"].reason
    assert numbers(found["stl"]) == alone["stl"]


def test_workers_share_the_gpus() -> None:
    taken: list[str | None] = []
    for _ in range(4):
        taken.append(least_loaded(["0", "1"], taken))
    assert taken == ["0", "1", "0", "1"]
    assert least_loaded([], taken) is None
