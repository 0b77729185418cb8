"""Sweeps that are killed again and again: nothing is lost, nothing changes, nothing is left."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlbench.runs.backends.here import Here
from mtlbench.runs.claims import acquire
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep, tidy
from tests.started import started
from tests.test_runner import numbers
from tests.toy_task import TOY

SPEC: dict[str, Any] = {
    "tasks": [TOY],
    "methods": ["famo", "ls"],
    "sharpness": ["none", "samo"],
    "seeds": [0, 1],
    "epochs": 6,
    "device": "cpu",
}
LONGEST = 1.5
"""Seconds between the first run's start and the kill, at most."""


def found(folder: Path) -> dict[str, Any]:
    return {record.identity.stem: numbers(record) for record in Store(folder)}


def killed(words: list[str], delay: float | None) -> bool:
    """Start the command, and kill its process group some time after it began to work, if at all;
    False if it has ended by itself."""
    with started(words) as process:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if "runs to do" in line:
                break
        if delay is not None:
            time.sleep(delay)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said += process.communicate(timeout=100)[0]
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


@pytest.mark.slow  # test_claims.py and test_sweep.py kill once, too
@pytest.mark.skipif(os.name != "posix", reason="kills process groups")
@pytest.mark.parametrize(
    "kills",
    [1, pytest.param(50, marks=pytest.mark.timeout(1200))],
)
def test_killed_again_and_again(kills: int, tmp_path: Path) -> None:
    unbroken = Store(tmp_path / "unbroken")
    runs = checked(SweepSpec.parse(SPEC, "here").requests())
    sweep(runs, unbroken, Here())
    expected = found(unbroken.folder)
    spec = tmp_path / "sweep.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    moments, left, folder_number = random.Random(kills), kills, 0
    while left:
        folder = tmp_path / f"killed-{folder_number}"
        words = ["sweep", str(spec), "--out", str(folder), "--jobs", "2", "--checkpoint", "0"]
        kept: dict[str, bytes] = {}
        ended = False
        while not ended:
            ended = not killed(words, moments.uniform(0, LONGEST) if left else None)
            left -= not ended
            now = {path.name: path.read_bytes() for path in folder.glob("*.json")}
            assert kept.items() <= now.items()
            kept = now
        assert found(folder) == expected
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == sorted(kept)
        folder_number += 1


def test_what_a_killed_sweep_left_of_a_finished_run_is_removed(tmp_path: Path) -> None:
    """Between its record and the end of its claim, or in the middle of a file."""
    store, run = Store(tmp_path), run_of()
    sweep([run], store, Here())
    (record,) = tmp_path.iterdir()
    stem = run.identity.stem
    claim = acquire(store.claim_path(run.identity))
    assert claim is not None
    left = [
        tmp_path / f".{stem}.json.half",
        tmp_path / f".{stem}.claim.0123",
        tmp_path / "models" / f".{stem}.pt.half",
        tmp_path / "checkpoints" / f"{stem}.pt",
        tmp_path / "checkpoints" / f".{stem}.pt.half",
        tmp_path / "curves" / f"{stem}.csv",
        tmp_path / "curves" / f".{stem}.csv.half",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    tidy([run], store)
    assert all(path.exists() for path in left)  # somebody is at it
    claim.release()
    tidy([run], store)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [record]
    assert not (tmp_path / "curves").exists()


def test_the_checkpoint_of_a_failed_run_is_kept(tmp_path: Path) -> None:
    store, run = Store(tmp_path), run_of("fault=raise")
    sweep([run], store, Here())
    for path in (store.checkpoint_path(run.identity), store.curves_path(run.identity)):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    tidy([run], store)
    assert store.checkpoint_path(run.identity).exists()
    assert not store.curves_path(run.identity).exists()


def run_of(fault: str = "") -> Run:
    return prepare(RunSpec(f"{TOY}:{fault}", "ls", device="cpu"))
