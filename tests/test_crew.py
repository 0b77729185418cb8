"""Sweeps whose runs several processes train together, without torchrun."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mtlbench.cli.sweep import _backend
from mtlbench.errors import UsageError
from mtlbench.runs.backends import Backend
from mtlbench.runs.backends.here import Here
from mtlbench.runs.backends.local import Local, groups
from mtlbench.runs.crew import check_device
from mtlbench.runs.execute import execute
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep, unfinished
from mtlbench.runs.tune import trials
from tests.started import started
from tests.test_cli import Mtlbench, plain
from tests.test_ranks import run as by_torchrun
from tests.test_runner import numbers
from tests.toy_task import BROKEN

PLAIN, FAILS = "tests.runs_on_ranks:Plain", "tests.runs_on_ranks:OneFails"
LIMIT = 5.0
LOST = "LostError: another process has ended, or does not answer: "


def run_of(method: str = "ls", task: str = FAILS, ranks: int = 2, **more: Any) -> Run:
    return prepare(
        RunSpec(task, method, "samo", device="cpu", protocol="paper", ranks=ranks, **more)
    )


def swept(runs: list[Run], folder: Path, backend: Backend | None = None) -> list[RunRecord]:
    """Records in the order in which they were reported, and nothing else in the folder."""
    records: list[RunRecord] = []

    def keep(run: Run, record: RunRecord) -> None:
        records.append(record)

    store = Store(folder)
    sweep(runs, store, backend or Local(1), limit=LIMIT, on_record=keep)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return records


@pytest.mark.parametrize(
    "backend", [Here(), pytest.param(Local(1), marks=pytest.mark.slow)], ids=["here", "a worker"]
)
def test_a_run_of_two_processes_is_that_of_one(tmp_path: Path, backend: Backend) -> None:
    """Of a network that draws nothing and normalises nothing, but for rounding."""
    (two,) = swept([run_of("famo", PLAIN)], tmp_path / "two", backend)
    one = execute(run_of("famo", PLAIN, ranks=1), Store(tmp_path / "one"))
    assert (two.status, two.identity.ranks) == ("ok", 2), two.reason
    for mine, wanted in zip(two.phases[0].epochs, one.phases[0].epochs, strict=True):
        assert mine.train_losses == pytest.approx(wanted.train_losses, rel=1e-4)
    found, expected = (each.phases[0].selected["test"].metrics for each in (two, one))
    assert found == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------------------------ what is asked
SPEC: dict[str, Any] = {"tasks": [FAILS], "methods": ["ls"], "protocol": "paper", "device": "cpu"}


def test_a_sweep_says_how_many() -> None:
    tune = {"seeds": [100], "trials": 2, "lr": [1, 2]}
    spec = SweepSpec.parse(SPEC | {"ranks": 2, "tune": tune, "equal_time": [2]}, "here")
    for requests in spec.requests(), trials(spec):
        assert {request.ranks for request in requests} == {2}
    alone, together = (SweepSpec.parse(SPEC | more, "here") for more in ({}, {"ranks": 2}))
    digests = [{run.identity.digest for run in checked(s.requests())} for s in (alone, together)]
    assert not digests[0] & digests[1]


@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        ([], {"protocol": "mini"}, "2 processes for batches of 2, and each needs 2 examples"),
        ([], {"accumulate": 2}, "several processes go neither with --accumulate nor"),
        ([], {"rows": "streamed"}, "nor with --rows streamed"),
        (["--log", "gradients:every=5"], {}, "--log gradients looks at one process: leave it out"),
    ],
    ids=str,
)
def test_what_does_not_go_together(
    words: list[str],
    change: dict[str, Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path, out = tmp_path / "sweep.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(SPEC | change))
    ended = Mtlbench(capsys)("sweep", path, "--ranks", "2", "--out", out, *words)
    assert (ended.code, plain(ended.err).count("error: ")) == (2, 1)
    assert said in plain(ended.err)
    assert not out.exists()


def test_devices_that_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    check_device("cpu", 100, 0.5)
    check_device("cuda", 3, 1.0)
    with pytest.raises(UsageError, match="on the CPU or on CUDA, not on mps"):
        check_device("mps", 2)
    with pytest.raises(UsageError, match="4 processes, which is more than the 3 GPUs here"):
        check_device("cuda", 4)
    with pytest.raises(UsageError, match=r"--gpus 0\.5 for several processes, and NCCL wants"):
        check_device("cuda", 2, 0.5)


def test_as_many_at_a_time_as_there_is_place_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlbench.hardware.cores", lambda: 8)
    runs = [run_of(seed=seed) for seed in range(5)]
    assert [_backend(runs, "local", None, None, n, None)[1] for n in (1, 2, 3)] == [4, 2, 1]
    backend, _ = _backend(runs, "ray", None, None, 2, None)
    assert backend.cpus == 4  # type: ignore[attr-defined]
    monkeypatch.setattr("mtlbench.hardware.visible_gpus", lambda: list("01234"))
    on_gpus = [replace(run, device=torch.device("cuda")) for run in runs]
    backend, at_a_time = _backend(on_gpus, "local", None, None, 1, None)
    assert (backend.gpus, at_a_time) == (["0,1", "2,3"], 2)  # type: ignore[attr-defined]
    backend, _ = _backend(on_gpus, "ray", None, None, 1, None)
    assert (backend.cpus, backend.gpus) == (2, 2.0)  # type: ignore[attr-defined]
    assert groups(["0", "1", "GPU-7", "3", "4"], 2) == ["0,1", "GPU-7,3"]
    assert groups(["0", "1"], 1) == ["0", "1"]


# ------------------------------------------------------------------------------------ what happens
@pytest.mark.slow
@pytest.mark.parametrize("backend", [Here(), Local(1)], ids=["here", "a worker"])
def test_the_bits_are_those_of_torchrun(tmp_path: Path, backend: Backend) -> None:
    (wanted,) = by_torchrun(tmp_path, "torchrun", "--method", "mgda", "--sharpness", "samo")
    run = run_of("mgda")
    assert unfinished([run], Store(tmp_path / "torchrun")) == []
    found = swept([run_of("uw"), run], tmp_path / "sweep", backend)
    assert numbers(found[1]) == numbers(wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("kill", "it ended with exit code -9"),
        ("exit", "it ended with exit code 7"),
        ("raise", f"; RuntimeError: {BROKEN}"),
        ("hang", "Timed out"),
        ("nan", "non-finite loss: level"),
    ],
)
def test_a_run_of_which_a_process_is_lost_is_a_record(
    tmp_path: Path, fault: str, said: str
) -> None:
    runs = [run_of(task=f"{FAILS}:fault={fault}"), run_of()]
    begun = time.monotonic()
    failed, ok = swept(runs, tmp_path)
    assert failed.status == ("diverged" if fault == "nan" else "failed")
    assert failed.reason.startswith("" if fault == "nan" else LOST)
    assert said in failed.reason
    assert ok.status == "ok"
    assert time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", f"RuntimeError: {BROKEN}"),
        ("exit", "it ended with exit code 7"),
        ("hang", f"not ready within {LIMIT:g} s"),
    ],
)
def test_a_process_that_does_not_begin(tmp_path: Path, fault: str, said: str) -> None:
    (record,) = swept(
        [run_of(task=f"tests.runs_on_ranks:NotReady:fault={fault}")], tmp_path, Here()
    )
    assert record.status == "failed"
    assert record.reason == f"LostError: another process has not begun: {said}"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("engine", "hangs", "end", "number", "code"),
    [
        ("local", None, os.killpg, signal.SIGINT, 130),
        ("local", 0, os.killpg, signal.SIGINT, 130),
        ("local", 1, os.kill, signal.SIGTERM, 143),
        ("local", 1, os.kill, signal.SIGKILL, -signal.SIGKILL),
        ("here", None, os.killpg, signal.SIGINT, 130),
        ("here", 0, os.kill, signal.SIGTERM, 143),
    ],
)
def test_an_interrupt_leaves_no_process_and_a_run_to_go_on_with(
    engine: str,
    hangs: int | None,
    end: Callable[[int, int], None],
    number: int,
    code: int,
    tmp_path: Path,
) -> None:
    """Also in the third epoch, where one process hangs and the other waits for it."""
    out, once, path = tmp_path / "out", tmp_path / "once", tmp_path / "sweep.yaml"
    task, epochs = f"{FAILS}:fault=hang,at=2,rank={hangs},once={once}", 4
    if hangs is None:
        task, epochs = FAILS, 100
    content = {"tasks": [task], "methods": ["mgda"], "sharpness": ["samo"], "reference": False}
    path.write_text(yaml.safe_dump(SPEC | content | {"epochs": epochs}))
    words = ["--engine", engine, "--ranks", "2", "--checkpoint", "0", "--limit", "30"]
    with started(["sweep", str(path), "--out", str(out), *words]) as process:
        while process.poll() is None and not (once.exists() or (hangs is None and begun(out))):
            time.sleep(0.05)
        end(process.pid, number)
        output, _ = process.communicate(timeout=60)  # until every process has closed its end
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert list(Store(out)) == []
    assert begun(out)
    (resumed,) = swept([run_of("mgda", task, epochs=epochs)], out)
    (whole,) = swept([run_of("mgda", epochs=epochs)], tmp_path / "whole")
    assert numbers(resumed)["phases"] == numbers(whole)["phases"]


def begun(out: Path) -> bool:
    """Whether there is a checkpoint."""
    return any(out.rglob("*.pt"))
