"""What the host waits for on an accelerator: counted on a pretended one, whose numbers are to be
those of the CPU. ``tests/fakedev.py`` says what it is, ``tests/on_fakedev.py`` what is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlbench.engine.gramian import GramianMethod
from mtlbench.registry import METHODS
from tests.fakedev_plan import KINDS, RUNS, TASKS, TORCH, WRAPPERS

pytestmark = [
    pytest.mark.timeout(600),  # the fixture has it all counted in one process
    pytest.mark.skipif(
        not torch.__version__.startswith(f"{TORCH}."),
        reason=f"knows the insides of torch {TORCH}, not of {torch.__version__}",
    ),
]
ROOT = Path(__file__).parent.parent
SAME = 1e-5
"""Relative difference from the CPU that other kernels may make."""


def _found(*sections: str) -> dict[str, Any]:
    """What a process of its own, which has the device, says."""
    called = subprocess.run(
        [sys.executable, "-m", "tests.on_fakedev", *sections],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 0, called.stderr[-4000:]
    found: dict[str, Any] = json.loads(called.stdout)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return _found("batches", "counts", "trouble", "runs")


def solves(method: str, wrapper: str) -> int:
    """How often a step has numbers of a device solved on the host."""
    families = 2 if wrapper == "fmtl" else 1
    parts = METHODS.build(method, 3).modules()  # a method may be made of another
    return families * any(isinstance(part, GramianMethod) for part in parts)


def _check_step(step: dict[str, Any], method: str, wrapper: str, sent: int = 1) -> None:
    n = solves(method, wrapper)
    assert step["waits"] == 1 + n, step["places"]  # each solve, and whether all is finite
    assert step["copies"] == 0, step["places"]
    assert step["asynchronous"] == sent + n, step["places"]  # a batch, and each solve's weights


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_step_waits_no_more_than_it_has_to(
    found: dict[str, Any], method: str, wrapper: str
) -> None:
    step = found["counts"][f"{method} {wrapper}"]
    _check_step(step, method, wrapper)
    assert step["gap"] < SAME


def test_a_batch_is_one_copy_and_its_labels_are_counted_where_they_came_from(
    found: dict[str, Any],
) -> None:
    assert found["batches"] == {
        "kinds": ["h2d async"] * 2,  # all that is contiguous, and what is not
        "same": True,
        "read on the host": [True, True, False],
        "read where it was written": True,
        "moved again": "fake",
    }


def test_missing_labels_and_skipped_steps_are_as_on_the_cpu(found: dict[str, Any]) -> None:
    for name, step in found["trouble"].items():
        assert step["gap"] < SAME, name
        assert step["copies"] == 0, (name, step["places"])
        assert step["waits"] <= 2, (name, step["places"])


@pytest.mark.parametrize("run", [" ".join(run[:3]) for run in RUNS])
def test_a_run_goes_on_from_device_to_device(found: dict[str, Any], run: str) -> None:
    for way, resumed in found["runs"][run].items():
        assert resumed["gap"] < SAME, way
        assert resumed["optimizer waits"] == 0, way


@pytest.mark.slow
def test_all_methods_do_without_doubles() -> None:
    """Those that follow differences between batches show what single precision makes of these."""
    looking = {name for name in METHODS.names() if METHODS.get(name).info.further is not None}
    for name, gap in _found("mps")["mps"].items():
        assert gap < (0.1 if name in looking else SAME), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_methods_with_all_wrappers() -> None:
    for name, step in _found("everything")["everything"].items():
        method, wrapper, *multi = name.split()
        assert step["gap"] < 1e-4, name
        _check_step(step, method, wrapper, sent=3 if multi else 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", TASKS)
def test_tasks(task: str) -> None:
    for way, resumed in _found(f"task:{task}")[f"task:{task}"].items():
        assert resumed["gap"] < 1e-3, way
        assert resumed["optimizer waits"] == 0, way
