"""From a request to a record: the same numbers again, also after an interrupt; failures are
results."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtlbench
from mtlbench.engine.randomness import seeded
from mtlbench.errors import DataError, UsageError
from mtlbench.hardware import torch_threads
from mtlbench.registry import SHARPNESS, Spec, identifying
from mtlbench.runs.events import Event
from mtlbench.runs.execute import Load, Watching, execute
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run, RunSpec, command, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import unfinished
from mtlbench.training.evaluate import evaluate
from mtlbench.training.trainer import WARM_UP_STEPS, Trainer
from tests.toy_task import BROKEN, EPOCHS, TOY, ToyTask

OBJECTIVES = ToyTask.info.objectives

CELLS = [("famo", "none"), ("uw", "samo"), ("stl", "none")]
"""Methods with a state of their own, a wrapper that draws numbers, a run of three phases."""


def run_of(method: str = "ls", sharpness: str | None = None, task: str = TOY, **more: Any) -> Run:
    return prepare(RunSpec(task, method, sharpness, device="cpu", **more))


def numbers(record: RunRecord) -> dict[str, Any]:
    """A record without what differs between two runs of the same thing: timing and provenance."""
    timing = {
        "step_ms",
        "train_seconds",
        "evaluation_seconds",
        "peak_memory_mb",
        "provenance",
    }
    epochs = {"__all__": {"epochs": {"__all__": {"step_ms"}}}}
    return record.model_dump(exclude={**dict.fromkeys(timing, True), "phases": epochs})


@cache
def unbroken(method: str, sharpness: str, folder: Path) -> RunRecord:
    return execute(run_of(method, sharpness), Store(folder / "unbroken"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def each_epoch(call: Callable[[], object] = lambda: None) -> Watching:
    """Calls after every epoch, of which there is a checkpoint."""

    def watch(event: Event) -> None:
        if event.kind == "epoch":
            call()

    return Watching(watch, checkpoint_seconds=0)


class Interrupt:
    """Raises in the n-th call."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# ------------------------------------------------------------------------------------ same again
@pytest.mark.parametrize(("method", "sharpness"), CELLS)
def test_a_run_is_reproducible(method: str, sharpness: str, shared: Path, tmp_path: Path) -> None:
    torch.rand(5)  # whatever the caller has drawn before
    again = execute(run_of(method, sharpness), Store(tmp_path))
    assert again.status == "ok"
    assert numbers(again) == numbers(unbroken(method, sharpness, shared))


def test_a_run_has_threads_of_its_own(shared: Path, tmp_path: Path) -> None:
    with torch_threads(2):
        run, store = run_of("famo"), Store(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            execute(run, store, each_epoch(Interrupt(1)))
        assert torch.get_num_threads() == 2
        record = execute(run, store)
        assert torch.get_num_threads() == 2
        inside: list[int] = []
        other = execute(
            run_of("ls"),
            store,
            each_epoch(lambda: inside.append(torch.get_num_threads())),
            Load(threads=3),
        )
    assert numbers(record) == numbers(unbroken("famo", "none", shared))
    assert (record.provenance.threads, other.provenance.threads) == (1, 3)
    assert set(inside) == {3}


def test_another_seed_is_another_run(shared: Path, tmp_path: Path) -> None:
    other = execute(run_of("famo", seed=1), Store(tmp_path))
    assert numbers(other)["phases"] != numbers(unbroken("famo", "none", shared))["phases"]


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    def states() -> Any:
        numpys = np.random.get_state(legacy=False)  # noqa: NPY002
        return [torch.get_rng_state().numpy(), numpys, random.getstate()]

    before = states()
    execute(run_of("graddrop", "sam"), Store(tmp_path))
    np.testing.assert_equal(states(), before)


# ------------------------------------------------------------------------------------ interrupts
@pytest.mark.parametrize(
    ("method", "sharpness", "after"),
    [
        (method, sharpness, after)
        for method, sharpness in CELLS
        for after in ((3, 4) if method == "stl" else range(1, EPOCHS + 1))
    ],
)
def test_a_resumed_run_ends_like_an_unbroken_one(
    method: str, sharpness: str, after: int, shared: Path, tmp_path: Path
) -> None:
    store, run = Store(tmp_path), run_of(method, sharpness)
    with pytest.raises(KeyboardInterrupt):
        execute(run, store, each_epoch(Interrupt(after)))
    assert list(store) == []
    left: list[None] = []
    resumed = execute(run, store, each_epoch(lambda: left.append(None)))
    assert len(left) == run.total_epochs - after
    assert numbers(resumed) == numbers(unbroken(method, sharpness, shared))
    assert list(tmp_path.rglob("*.pt")) == []


def test_interrupted_again_and_again(shared: Path, tmp_path: Path) -> None:
    store, run = Store(tmp_path), run_of("uw", "samo")
    for _ in range(EPOCHS):
        with pytest.raises(KeyboardInterrupt):
            execute(run, store, each_epoch(Interrupt(1)))
    assert numbers(execute(run, store)) == numbers(unbroken("uw", "samo", shared))


def test_an_interrupt_within_an_epoch(tmp_path: Path) -> None:
    store, run = Store(tmp_path), run_of(task=f"{TOY}:fault=interrupt,once={tmp_path / 'once'}")
    with pytest.raises(KeyboardInterrupt):
        execute(run, store, each_epoch())
    assert list(store) == []
    assert len(list(tmp_path.rglob("*.pt"))) == 1
    resumed, whole = execute(run, store), execute(run, Store(tmp_path / "whole"))
    assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("broken", [b"", b"half a checkpoint"], ids=["empty", "no checkpoint"])
def test_a_corrupt_checkpoint_is_named(broken: bytes, tmp_path: Path) -> None:
    store, run = Store(tmp_path), run_of()
    with pytest.raises(KeyboardInterrupt):
        execute(run, store, each_epoch(Interrupt(1)))
    (checkpoint,) = tmp_path.rglob("*.pt")
    checkpoint.write_bytes(broken)
    record = execute(run, store)
    assert record.status == "failed"
    assert f"checkpoint {checkpoint} cannot be read" in record.reason
    assert "delete it to start over" in record.reason
    checkpoint.unlink()
    assert execute(run, store).status == "ok"


# ------------------------------------------------------------------------------------ failures
@pytest.mark.parametrize("fault", ["nan", "raise"])
def test_a_finished_record_survives_a_failure_to_make_it_again(fault: str, tmp_path: Path) -> None:
    store, run = Store(tmp_path), run_of()
    done = execute(run, store)
    again = execute(dataclasses.replace(run, task=run_of(task=f"{TOY}:fault={fault}").task), store)
    assert again.status != "ok"
    assert store.read(run.identity) == done


def test_a_diverged_run_is_a_record(tmp_path: Path) -> None:
    record = execute(run_of(task=f"{TOY}:fault=nan"), Store(tmp_path))
    assert (record.status, record.phases, record.step_ms) == ("diverged", [], None)
    assert "non-finite loss: level = nan" in record.reason
    assert list(Store(tmp_path)) == [record]
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_failing_run_is_a_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    broken = run_of(task=f"{TOY}:fault=raise,at=2,once={tmp_path / 'once'}")
    record = execute(broken, store, each_epoch())
    assert (record.status, record.phases) == ("failed", [])
    assert record.reason == f"RuntimeError: {BROKEN}"
    assert list(store) == [record]

    epochs: list[None] = []
    assert execute(broken, store, each_epoch(lambda: epochs.append(None))).status == "ok"
    assert len(epochs) == 1  # it went on from the checkpoint
    assert [record.status for record in store] == ["ok"]


ON_CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: torch.empty(1 << 48), "1.049e+06 GiB were asked for"),  # torch says it in bytes
        (
            lambda: _raise(torch.OutOfMemoryError(ON_CUDA)),
            "2.50 GiB were asked for",
        ),
        (lambda: _raise(MemoryError("no room")), "no room"),
    ],
)
def test_out_of_memory_says_how_much_was_asked_for_and_what_needs_less(
    asked: Callable[[], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtlbench.runs.execute._fit", lambda *_: asked())
    streamed = "--rows streamed holds a part of the gradients at a time"
    smaller = "a protocol with smaller batches or a smaller --arch needs less"
    for run, remedy in (
        (run_of("mgda"), streamed),
        (run_of("mgda", "sam"), streamed),
        (run_of("mgda", "samo"), smaller),
        (run_of("mgda", rows="streamed"), smaller),
        (run_of("graddrop"), smaller),
    ):
        record = execute(run, Store(tmp_path))
        assert record.status == "failed"
        assert record.reason == f"out of memory: {said}; {remedy}"


def _raise(error: Exception) -> None:
    raise error


def test_how_rows_are_held_is_no_part_of_what_a_run_is() -> None:
    streamed = run_of("mgda", rows="streamed")
    assert streamed.identity == run_of("mgda").identity
    assert "--rows streamed" in command(streamed)
    assert "--rows" not in command(run_of("mgda"))
    with pytest.raises(UsageError, match="unknown rows 'some'"):
        run_of("mgda", rows="some")


# ------------------------------------------------------------------------------------ records
def test_a_record_survives_the_file(shared: Path) -> None:
    for method, sharpness in CELLS:
        written = unbroken(method, sharpness, shared)
        assert Store(shared / "unbroken").read(written.identity) == written


@pytest.mark.skipif(os.name != "posix", reason="its file names are text")
def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    (folder := tmp_path / os.fsdecode(b"f\xff")).mkdir()
    store = Store(tmp_path / "runs")
    record = execute(run := run_of(data=folder), store)
    assert r"f\udcff" in record.provenance.command
    assert store.read(run.identity) == record


def test_an_option_that_came_later_leaves_earlier_runs_theirs() -> None:
    def options(sharpness: str) -> dict[str, Any]:
        return prepare(RunSpec(TOY, "ls", sharpness)).identity.sharpness_options

    assert options("samo:points=per-task") == options("samo")
    assert "points" not in options("samo:noise=shared")
    assert options("samo:noise=shared,points=by-sign")["points"] == "by-sign"


def test_what_a_record_says(shared: Path) -> None:
    record = unbroken("uw", "samo", shared)
    identity = record.identity
    assert (identity.task, identity.data_source) == ("toy", "36 made-up samples")
    assert identity.task_options == {"fault": None, "at": 1, "once": ""}
    assert (identity.protocol, identity.protocol_version, identity.epochs) == ("mini", 1, EPOCHS)
    assert identity.method_options == {"lr": 1e-3}
    assert identity.sharpness_options == identifying(*SHARPNESS.resolve(Spec("samo")))
    assert identity.sharpness_options["rho"] == 0.05
    assert record.titles == ("UW", "SAMO")
    assert (record.role, record.plain) == ("method", False)
    assert set(record.scores()) == set(record.scores("train", "last")) == set(metric_names())
    (phase,) = record.phases
    K = len(OBJECTIVES)
    assert (phase.forwards_per_step, phase.backwards_per_step) == (1 + 2 * K + K, 1 + K)
    assert phase.selected["val"] == phase.epochs[phase.selected_epoch].val
    assert record.step_ms is not None
    assert record.step_ms > 0
    assert record.peak_memory_mb is None or record.peak_memory_mb >= 0
    assert record.provenance.versions["mtlbench"] == mtlbench.__version__
    assert record.provenance.device


def metric_names() -> list[str]:
    return [metric.name for metric in ToyTask.info.metrics]


def test_a_reference_run_trains_each_objective_alone(shared: Path) -> None:
    record = unbroken("stl", "none", shared)
    assert record.role == "reference"
    assert [phase.objectives for phase in record.phases] == [[name] for name in OBJECTIVES]
    assert set(record.scores()) == set(metric_names())
    assert {phase.backwards_per_step for phase in record.phases} == {1}


def test_the_first_steps_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    slow = {2 * step + 1 for step in range(WARM_UP_STEPS)}  # ends of the warm-up's steps
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 1000.0 if next(clock) in slow else 0.001
        return now

    monkeypatch.setattr("mtlbench.training.trainer.time.perf_counter", tick)
    record = execute(run_of(), Store(tmp_path))
    assert record.step_ms == pytest.approx(1.0)


# ------------------------------------------------------------------------------------ models
def test_a_model_is_kept_only_if_asked_for(shared: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run, plain = run_of("famo", keep_model=True), run_of("famo")
    assert run.identity == plain.identity
    record = execute(run, store)
    assert numbers(record) == numbers(unbroken("famo", "none", shared))
    assert list(tmp_path.rglob("*.pt")) == [store.model_path(run.identity)]
    assert list(store) == [record]
    assert not Store(shared / "unbroken").model_path(run.identity).exists()


def test_the_kept_model_is_the_selected_one_also_after_an_interrupt(tmp_path: Path) -> None:
    run, store, whole = run_of("uw", keep_model=True), Store(tmp_path), Store(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(run, store, each_epoch(Interrupt(EPOCHS)))
    (phase,) = execute(run, store).phases
    execute(run, whole)
    state = torch.load(store.model_path(run.identity), weights_only=True)
    same = torch.load(whole.model_path(run.identity), weights_only=True)
    assert state.keys() == same.keys()
    assert all(torch.equal(state[name], same[name]) for name in state)
    model = run.task.build_model(run.identity.architecture)
    model.load_state_dict(state)
    for split, scores in phase.selected.items():
        assert evaluate(model, run.task, split, OBJECTIVES, run.device) == scores


def test_a_kept_model_is_no_larger_than_its_tensors(tmp_path: Path) -> None:
    run, store = run_of(keep_model=True), Store(tmp_path)
    execute(run, store)
    state = torch.load(store.model_path(run.identity), weights_only=True)
    for value in state.values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


def test_a_run_of_several_models_keeps_none(tmp_path: Path) -> None:
    assert execute(run_of("stl", keep_model=True), Store(tmp_path)).status == "ok"
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_run_is_done_again_for_its_model(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain, wanted = run_of(), run_of(keep_model=True)
    execute(plain, store)
    assert unfinished([plain, wanted], store) == [wanted]
    execute(wanted, store)
    assert unfinished([plain, wanted], store) == []
    stl, diverged = (
        run_of("stl", keep_model=True),
        run_of(task=f"{TOY}:fault=nan", keep_model=True),
    )
    for run in (stl, diverged):
        execute(run, store)
    assert unfinished([stl, diverged], store) == []


# ------------------------------------------------------------------------------------ weights
@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A file with one tensor of the trunk's, and one that it does not have."""
    path = tmp_path / "trunk.pt"
    torch.save({"0.weight": torch.full((8, 4), 0.5), "fc.weight": torch.ones(2)}, path)
    return path


def test_weights_are_loaded_into_the_trunk(trunk: Path) -> None:
    def trainer(weights: Path | None) -> Trainer:
        parts: dict[str, Any] = {"method": Spec("ls"), "sharpness": Spec("none"), "seed": 0}
        with seeded(0):
            return Trainer(
                run_of().task,
                OBJECTIVES,
                architecture="linear",
                device=torch.device("cpu"),
                weights=weights,
                **parts,
            )

    state, plain = trainer(trunk).model.state_dict(), trainer(None).model.state_dict()
    changed = {name for name in state if not torch.equal(state[name], plain[name])}
    assert changed == {"shared.0.weight"}
    assert (state["shared.0.weight"] == 0.5).all()


@pytest.mark.parametrize("method", ["ls", "stl"])
def test_other_weights_make_another_run(method: str, trunk: Path, tmp_path: Path) -> None:
    run, store = run_of(method, weights=trunk), Store(tmp_path / "out")
    record = execute(run, store)
    assert record.status == "ok"
    assert store.read(run.identity) == record
    weights = run.identity.weights
    assert weights is not None
    assert weights.file == "trunk.pt"
    assert weights.sha256 == hashlib.sha256(trunk.read_bytes()).hexdigest()
    assert f"--weights {trunk}" in command(run)

    plain = execute(run_of(method), store)
    assert plain.identity.digest != run.identity.digest
    assert numbers(plain)["phases"] != numbers(record)["phases"]

    (tmp_path / "same").mkdir()
    again = trunk.rename(tmp_path / "same" / trunk.name)
    assert run_of(method, weights=again).identity == run.identity
    renamed = trunk.parent / "other.pt"
    renamed.write_bytes(again.read_bytes())
    assert run_of(method, weights=renamed).identity.digest != run.identity.digest


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "there is no file of weights at"),
        (b"half", "cannot be read"),
        ([torch.ones(1)], "expected a state dict, names to tensors"),
        ({"state_dict": {"0.weight": torch.ones(8, 4)}}, "expected a state dict"),
        (
            {f"layer{i}": torch.ones(1) for i in range(9)},
            "no name is one of the trunk's; the file has layer0, layer1, layer2, layer3, layer4, "
            "... (9 in all), the trunk 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean, "
            "... (7 in all)",
        ),
        (
            {"0.weight": torch.ones(8, 3), "0.bias": torch.ones(7), "1.bias": torch.ones(8)},
            "other shapes than the trunk: 0.weight (8, 3), expected (8, 4); 0.bias (7,), "
            "expected (8,)",
        ),
    ],
    ids=["missing", "corrupt", "no mapping", "nested", "no name", "shapes"],
)
def test_weights_that_do_not_fit_are_refused_before_training(
    state: Any, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(state, bytes):
        path.write_bytes(state)
    elif state is not None:
        torch.save(state, path)
    with pytest.raises(UsageError) as caught:
        run_of(weights=path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    task = f"{TOY}:fault=nan,at=2"
    run = run_of("cagrad:c=0.2", "samo:rho=0.1", task, seed=3, epochs=2, data=tmp_path)
    assert command(run) == (
        f"mtlbench run {task} --method cagrad:c=0.2 --sharpness samo:rho=0.1 --seed 3 "
        f"--protocol mini --device cpu --data {tmp_path} --epochs 2 --out runs"
    )


# ------------------------------------------------------------------------------------ requests
def test_defaults_are_resolved() -> None:
    run = run_of()
    assert (run.identity.sharpness, run.identity.architecture) == ("none", "linear")
    paper = run_of(protocol="paper").identity
    assert (paper.protocol_version, paper.epochs, paper.architecture) == (2, 4, "wide")
    assert run_of(protocol="paper", architecture="linear").identity != paper


def test_the_same_request_in_other_words_is_the_same_run() -> None:
    same = [run_of("famo:lr=0.025"), run_of("famo:lr=25e-3,gamma=0.01"), run_of("famo", "none")]
    assert {run.identity.digest for run in same} == {run_of("famo").identity.digest}


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: run_of(protocol="maxi"), "has no protocol 'maxi'; valid: mini, paper"),
        (lambda: run_of(architecture="deep"), "has no architecture 'deep'; valid: linear, wide"),
        (lambda: run_of(epochs=0), "epochs must be at least 1, not 0"),
        (lambda: run_of(seed=-1), "seed"),
        (lambda: run_of("famo:lr=-1"), "option lr=-1: Input should be greater than 0"),
        (lambda: run_of("ls", "samo:alpha=2"), "option alpha=2: Input should be less than"),
        (lambda: run_of(task=f"{TOY}:at=x"), "option at=x: Input should be a valid integer"),
    ],
)
def test_a_bad_request_is_refused(build: Callable[[], Run], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        build()
    assert said in str(caught.value)


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    with pytest.raises(DataError, match=f"{folder} does not exist; {ToyTask.info.source}"):
        run_of(data=folder)


def test_a_missing_device_is_named() -> None:
    with pytest.raises(UsageError, match="device 'nosuch' is not available here"):
        prepare(RunSpec(TOY, "ls", device="nosuch"))
