"""Claims: a run is made by one, and by another once that one is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from mtlbench.runs import claims
from mtlbench.runs.claims import LIMIT, Claim, Holder, acquire, holder
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from tests.test_sweep import go
from tests.toy_task import TOY

posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def put(path: Path, who: Holder, age: float = 0.0) -> None:
    path.write_text(json.dumps(asdict(who)))
    now = time.time()
    os.utime(path, (now - age, now - age))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / ".run.claim"


def test_one_at_a_time_and_nothing_is_left(path: Path) -> None:
    claim = acquire(path)
    assert claim is not None
    assert acquire(path) is None
    assert holder(path) == claim.holder
    assert claim.holder.pid == os.getpid()
    claim.release()
    assert list(path.parent.iterdir()) == []
    with acquire(path) or pytest.fail("it is free"):
        assert holder(path) is not None
    assert holder(path) is None


def gone(**changes: Any) -> Holder:
    """A process of this machine that has ended, and its number was given anew."""
    return replace(Holder.here(), born="1", **changes)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are seen in /proc")
def test_the_claim_of_a_process_that_is_gone_lapses(path: Path) -> None:
    path.parent.mkdir()
    put(path, gone())
    assert holder(path) is None
    claim = acquire(path)
    assert claim is not None
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    claim.release()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        put(path, replace(Holder.here(), pid=process.pid))
        assert holder(path) is None


@pytest.mark.parametrize("content", ["of another machine", "", "half of {"])
def test_the_claim_of_a_holder_that_cannot_be_seen_lapses_with_time(
    content: str, path: Path
) -> None:
    path.parent.mkdir()
    for age, free in ((0.9 * LIMIT, False), (1.1 * LIMIT, True)):
        put(path, gone(system="another", host="far"), age)
        if not content.startswith("of"):
            path.write_text(content)
            os.utime(path, (time.time() - age,) * 2)
        claim = acquire(path)
        assert (claim is not None) == free
        if claim is not None:
            claim.release()


def test_a_claim_beats(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with acquire(path) or pytest.fail("it is free"):
        os.utime(path, (0, 0))
        for _ in range(200):
            time.sleep(0.01)
            if path.stat().st_mtime > 0:
                break
        assert time.time() - path.stat().st_mtime < LIMIT


def test_a_claim_that_was_lost_is_not_released(path: Path) -> None:
    claim = acquire(path)
    assert claim is not None
    other = gone(token="other")
    put(path, other)
    claim.release()
    assert json.loads(path.read_text()) == asdict(other)


def test_of_many_that_see_a_dead_holder_one_gets_the_claim(path: Path) -> None:
    path.parent.mkdir()
    for _ in range(20):
        put(path, gone(system="another"), 2 * LIMIT)
        start, got = Barrier(8), list[Claim]()

        def reach(start: Barrier = start, got: list[Claim] = got) -> None:
            start.wait()
            claim = acquire(path)
            if claim is not None:
                got.append(claim)

        threads = [Thread(target=reach) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        got[0].release()
        assert list(path.parent.iterdir()) == []


# ------------------------------------------------------------------------------------ sweeps
SWEEP = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from mtlbench.runs.spec import RunSpec, prepare
from tests.test_sweep import go
if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    runs = [prepare(RunSpec(task, m, seed=s, device="cpu")) for m in ("ls", "uw") for s in (0, 1)]
    epochs, records = [], []
    go(runs, folder, on_epoch=epochs.append,
       on_record=lambda run, record: records.append(record.status))
    print(len(epochs), " ".join(records))
"""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two sweeps of the same four runs in one folder, at the same time."""
    script = tmp_path / "script.py"
    script.write_text(SWEEP)
    words = [sys.executable, str(script), TOY, str(tmp_path / "runs")]
    started = [
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(2)
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_two_sweeps_of_a_folder_make_each_run_once(
    commands: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    said = [process.communicate(timeout=300)[0].split() for process in commands]
    assert [process.returncode for process in commands] == [0, 0]
    assert [records for _, *records in said] == [["ok"] * 4] * 2
    runs = [run_of(m, seed=s) for m in ("ls", "uw") for s in (0, 1)]
    assert sum(int(epochs) for epochs, *_ in said) == sum(run.total_epochs for run in runs)
    left = sorted(p.name for p in (tmp_path / "runs").rglob("*"))
    assert left == sorted(f"{run.identity.stem}.json" for run in runs)


def run_of(method: str = "ls", task: str = TOY, **more: Any) -> Run:
    return prepare(RunSpec(task, method, device="cpu", **more))


def swept(run: Run, folder: Path) -> tuple[list[Run], list[RunRecord]]:
    epochs: list[Run] = []
    records: list[RunRecord] = []
    go(
        [run],
        folder,
        on_epoch=epochs.append,
        on_record=lambda run, record: records.append(record),
    )
    return epochs, records


@posix
def test_another_sweep_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    task, runs = f"{TOY}:fault=hang,at=1,once={tmp_path / 'once'}", tmp_path / "runs"
    run = run_of(task=task)
    claim = Store(runs).claim_path(run.identity)
    script = tmp_path / "script.py"
    script.write_text(SWEEP.replace('("ls", "uw")', '("ls",)').replace("(0, 1)", "(0,)"))
    with subprocess.Popen([sys.executable, str(script), task, str(runs)]) as process:
        while process.poll() is None and not (tmp_path / "once").exists():
            time.sleep(0.02)
        assert holder(claim) is not None
        temporary = runs / f".{run.identity.stem}.json.half"
        temporary.write_text("half")
        process.send_signal(signal.SIGKILL)  # its child is to end by itself
    assert holder(claim) is None
    epochs, (record,) = swept(run, runs)
    assert record.status == "ok"
    assert len(epochs) == run.total_epochs - 1
    assert [path.name for path in runs.rglob("*")] == [f"{run.identity.stem}.json"]


def test_what_another_sweep_has_made_is_not_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it ends well or fails, while this one waits."""
    caplog.set_level("INFO", "mtlbench")
    store, run = Store(tmp_path), run_of()
    first = swept(run, tmp_path / "first")[1][0]
    for status in ("failed", "ok"):
        made = first.model_copy(update={"status": status})
        claim = acquire(store.claim_path(run.identity))
        assert claim is not None

        def finish(made: RunRecord = made, claim: Claim = claim) -> None:
            time.sleep(0.3)
            store.write(made)
            claim.release()

        other = Thread(target=finish)
        other.start()
        assert swept(run, tmp_path) == ([], [made])
        other.join()
        assert f"{run.identity.stem} is left to {claim.holder}" in caplog.text
