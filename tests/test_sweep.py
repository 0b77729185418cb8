"""Many runs in processes of their own: what a crash and an interrupt leave behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mtlbench.cli.live import View
from mtlbench.runs.backends import Backend, Job
from mtlbench.runs.backends.local import Local, _tell_of
from mtlbench.runs.claims import Claim
from mtlbench.runs.events import Event, StoppedError
from mtlbench.runs.execute import Watching, execute
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import grid, sweep, unfinished
from mtlbench.training.history import Phase
from tests.started import started
from tests.test_runner import each_epoch, numbers
from tests.toy_task import BROKEN, EPOCHS, EXIT_CODE, TOY

BASE = RunSpec(TOY, "", device="cpu")


def run_of(fault: str = "", method: str = "ls") -> Run:
    return prepare(RunSpec(f"{TOY}:{fault}", method, device="cpu"))


def go(
    runs: list[Run],
    folder: Path,
    jobs: int = 1,
    *,
    on_epoch: Callable[[Run], object] = lambda run: None,
    on_record: Callable[[Run, RunRecord], None] = lambda run, record: None,
) -> None:
    """A sweep on local workers with a checkpoint an epoch."""

    def watch(run: Run, event: Event) -> None:
        if event.kind == "epoch":
            on_epoch(run)

    sweep(
        runs,
        Store(folder),
        Local(jobs, {module for run in runs for module in run.modules}),
        checkpoint_seconds=0,
        watch=watch,
        on_record=on_record,
    )


def swept(runs: list[Run], folder: Path, jobs: int = 1) -> list[RunRecord]:
    """Records in the order in which they were reported."""
    records: list[RunRecord] = []
    go(runs, folder, jobs, on_record=lambda run, record: records.append(record))
    assert sorted(map(repr, Store(folder))) == sorted(map(repr, records))
    return records


# ------------------------------------------------------------------------------------ what to do
def test_the_grid() -> None:
    runs = grid(BASE, ["ls", "stl", "cagrad:c=0.2"], ["none", "samo"], [0, 1])
    cells = [(run.identity.method, run.identity.sharpness, run.identity.seed) for run in runs]
    assert cells == [
        ("ls", "none", 0),
        ("ls", "samo", 0),
        ("stl", "none", 0),
        ("cagrad", "none", 0),
        ("cagrad", "samo", 0),
        ("ls", "none", 1),
        ("ls", "samo", 1),
        ("stl", "none", 1),
        ("cagrad", "none", 1),
        ("cagrad", "samo", 1),
    ]


def test_the_same_run_in_other_words_is_in_the_grid_once() -> None:
    assert len(grid(BASE, ["famo", "famo:lr=0.025", "famo:gamma=1e-2"], ["none", "none"], [0])) == 1


@pytest.mark.parametrize(
    ("status", "left"), [("ok", []), ("diverged", ["ls"]), ("failed", ["ls"]), (None, ["ls"])]
)
def test_failed_runs_are_run_again_if_that_is_asked_for(
    status: str | None, left: list[str], tmp_path: Path
) -> None:
    run, store = run_of(), Store(tmp_path)
    if status is not None:
        record = execute(run_of("fault=raise"), Store(tmp_path / "other"))
        store.write(record.model_copy(update={"identity": run.identity, "status": status}))
    assert [each.identity.method for each in unfinished([run], store, retry=True)] == left
    assert bool(unfinished([run], store)) == (status is None)


# ------------------------------------------------------------------------------------ crashes
def test_the_sweep_goes_on_after_every_kind_of_end(tmp_path: Path) -> None:
    faults = ["fault=kill", "fault=exit", "fault=raise", "fault=nan", "fault=interrupt", ""]
    records = swept([run_of(fault) for fault in faults], tmp_path)
    ended = "the run's process ended with exit code"
    assert [(r.status, r.reason.partition(" (")[0][:60]) for r in records] == [
        ("failed", f"{ended} {-signal.SIGKILL}"),
        ("failed", f"{ended} {EXIT_CODE}"),
        ("failed", f"RuntimeError: {BROKEN}"[:60]),
        ("diverged", "10 of 30 steps skipped, more than 5%: non-finite loss: level"),
        ("failed", f"{ended} 130"),
        ("ok", ""),
    ]


def test_a_killed_run_is_resumed_by_the_next_sweep(tmp_path: Path) -> None:
    run = run_of(f"fault=kill,at=2,once={tmp_path / 'once'}", "famo")
    (first,) = swept([run], tmp_path)
    assert first.status == "failed"
    assert unfinished([run], Store(tmp_path), retry=True) == [run]
    epochs: list[Run] = []
    go([run], tmp_path, on_epoch=epochs.append)
    assert len(epochs) == EPOCHS - 2
    (second,) = Store(tmp_path)
    assert numbers(second) == numbers(execute(run, Store(tmp_path / "unbroken")))


def test_two_at_a_time(tmp_path: Path) -> None:
    runs = grid(BASE, ["ls", "stl"], ["none"], [0, 1])
    epochs: list[Run] = []
    records: dict[str, RunRecord] = {}
    go(
        runs,
        tmp_path,
        2,
        on_epoch=epochs.append,
        on_record=lambda run, record: records.update({run.identity.digest: record}),
    )
    assert len(epochs) == sum(run.total_epochs for run in runs)
    for run in runs[:2]:
        alone = execute(run, Store(tmp_path / "alone"))
        assert numbers(records[run.identity.digest]) == numbers(alone)
    assert list(records) != []
    assert {record.provenance.threads for record in records.values()} == {1}


# ------------------------------------------------------------------------------------ interrupts
def test_an_interrupt_ends_the_processes_and_leaves_no_record(tmp_path: Path) -> None:
    def interrupt(run: Run) -> None:
        raise KeyboardInterrupt

    runs = grid(BASE, ["ls", "uw"], ["samo"], [0, 1])
    with pytest.raises(KeyboardInterrupt):
        go(runs, tmp_path, 2, on_epoch=interrupt)
    assert multiprocessing.active_children() == []
    done = list(Store(tmp_path))  # raises if one of them is not whole
    assert len(done) + len(unfinished(runs, Store(tmp_path))) == len(runs)
    assert len(done) < len(runs)


def test_a_run_whose_sweep_is_gone_leaves_no_record(tmp_path: Path) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    run, store = run_of(), Store(tmp_path)
    with pytest.raises(StoppedError):
        execute(run, store, Watching(partial(_tell_of, sender), checkpoint_seconds=0))
    assert list(store) == []
    epochs: list[None] = []
    assert execute(run, store, each_epoch(lambda: epochs.append(None))).status == "ok"
    assert len(epochs) == EPOCHS - 1


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("end", "number", "code"),
    [
        (os.killpg, signal.SIGINT, 130),
        (os.kill, signal.SIGTERM, 143),
        (os.kill, signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["ctrl-c", "terminated", "killed"],
)
def test_the_command_line_ends_with_all_its_processes(
    end: Callable[[int, int], None], number: int, code: int, tmp_path: Path
) -> None:
    """Also where interrupts are ignored to begin with, as in the background of a script."""
    out, once = tmp_path / "out", tmp_path / "once"
    task = f"{TOY}:fault=hang,at=1,once={once}"
    words = ["run", task, "--method", "ls", "--device", "cpu", "--out", str(out)]
    words += ["--checkpoint", "0"]
    with started(words) as process:
        while process.poll() is None and not once.exists():
            time.sleep(0.05)
        end(process.pid, number)
        output, _ = process.communicate(timeout=60)  # until every process has closed its end
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert list(Store(out)) == []
    (checkpoint,) = out.rglob("*.pt*")  # and no half of one
    assert checkpoint.suffix == ".pt"

    epochs: list[Run] = []
    run = prepare(RunSpec(task, "ls", device="cpu"))
    go([run], out, on_epoch=epochs.append)
    assert len(epochs) == EPOCHS - 1
    assert [record.status for record in Store(out)] == ["ok"]


# ------------------------------------------------------------------------------------ many
class AtOnce(Backend):
    """Ends every run at once, with the numbers of another one."""

    def __init__(self, made: RunRecord) -> None:
        self.made = made

    def work(self, job: Job) -> None:
        while (run := job.queue.take()) is not None:
            job.store.write(self.made.model_copy(update={"identity": run.identity}))
            job.queue.ended(run)


def alive_now() -> int:
    """Records, phases and claims that are referred to, by other tests too."""
    gc.collect()
    return sum(type(each) in (RunRecord, Claim, Phase) for each in gc.get_objects())


def test_nothing_of_a_finished_run_stays_in_memory(tmp_path: Path) -> None:
    made = execute(run_of(), Store(tmp_path / "made"))
    runs = grid(BASE, ["ls"], ["none"], range(200))
    alive = [alive_now()]
    with View(runs, 0) as view:

        def ended(run: Run, record: RunRecord) -> None:
            view.ended(run, record)
            if run in (runs[50], runs[-1]):
                alive.append(alive_now())

        sweep(runs, Store(tmp_path / "many"), AtOnce(made), on_record=ended)
    before, early, late = alive
    assert late <= early < before + 20
