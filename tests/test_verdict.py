"""When a training is no result: many skipped steps, a metric that is NaN; and what is blamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlbench import Batch, InputGroup, Task
from mtlbench.runs.execute import execute
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store
from mtlbench.training.verdict import origin
from tests.toy_task import EPOCHS, TOY, ToyTask

NAN, INF = float("nan"), float("inf")


def toy() -> ToyTask:
    return ToyTask(ToyTask.info.protocols[0])


def spoil(task: Task, split: str, batches: int, change: dict[str, Any]) -> None:
    """Make the first batches of a split bad: ``change`` is column to value, or target to value."""
    whole = task.batches

    def spoilt(wanted: str, seed: int | None) -> Iterable[Batch]:
        for i, batch in enumerate(whole(wanted, None)):
            yield [bad(group) for group in batch] if wanted == split and i < batches else batch

    def bad(group: InputGroup) -> InputGroup:
        inputs, targets = group.inputs.clone(), dict(group.targets)
        for name, value in change.items():
            if name in targets:
                targets[name] = torch.full_like(targets[name], value)
            else:
                inputs[0, int(name)] = value
        return InputGroup(inputs, targets)

    vars(task)["batches"] = spoilt


def ended(folder: Path, *spoilt: tuple[str, int, dict[str, Any]], method: str = "ls") -> Any:
    run = prepare(RunSpec(TOY, method))
    task = toy()
    for each in spoilt:
        spoil(task, *each)
    return execute(replace(run, task=task), Store(folder))


def test_a_run_that_skips_many_steps_is_not_ok(tmp_path: Path) -> None:
    """Of 30 steps 1 an epoch, each of two examples."""
    record = ended(tmp_path, ("train", 1, {"2": NAN}))
    assert (record.status, record.phases) == ("diverged", [])
    assert record.reason.startswith("2 of 30 steps skipped, more than 5%: non-finite loss: level")
    assert record.reason.endswith("; of 20 in train, input column 2 is not finite in 1 examples")
    assert not list(tmp_path.rglob("*.pt"))


def test_a_step_or_two_may_be_skipped(tmp_path: Path) -> None:
    task = toy()
    whole, calls = task.batches, []

    def once(split: str, seed: int | None) -> Iterable[Batch]:
        calls.append(split)
        for i, batch in enumerate(whole(split, seed)):
            (group,) = batch
            bad = calls.count("train") == 1 and split == "train" and i == 0
            yield [InputGroup(group.inputs * NAN, group.targets)] if bad else batch

    vars(task)["batches"] = once
    record = execute(replace(prepare(RunSpec(TOY, "ls")), task=task), Store(tmp_path))
    assert record.status == "ok"
    assert [epoch.skipped_steps for epoch in record.phases[0].epochs] == [1, *[0] * (EPOCHS - 1)]


def test_infinite_targets_are_named_too(tmp_path: Path) -> None:
    record = ended(tmp_path, ("train", 9, {"0": INF, "level": INF}))
    assert record.reason.startswith("9 of 30 steps skipped")
    assert "input column 0 is not finite in 9 examples" in record.reason
    assert "target level is not finite in 18 examples" in record.reason


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_nan_metric_is_not_ok(split: str, tmp_path: Path) -> None:
    record = ended(tmp_path, (split, 1, {"1": NAN}))
    assert record.status == "diverged"
    assert record.reason == (
        f"level_mse, slope_mse NaN on {split}; of 8 in {split}, "
        "input column 1 is not finite in 1 examples"
    )


def test_a_reference_run_is_judged_phase_by_phase(tmp_path: Path) -> None:
    record = ended(tmp_path, ("train", 1, {"slope": INF}), method="stl")
    assert record.status == "diverged"
    assert "non-finite loss: slope = inf; of 20 in train, target slope" in record.reason


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"age": torch.tensor([[1.0], [NAN]])}, "input age column 0 is not finite in 1 examples"),
        ([torch.tensor([1.0, INF])], "input 0 is not finite in 1 examples"),
        (torch.full((2, 3, 4, 4), NAN), "input is not finite in 2 examples"),
        (torch.ones(2, 3), ""),
        (torch.ones(2, 3, dtype=torch.int64), ""),
        (object(), ""),
    ],
)
def test_inputs_of_any_kind_are_looked_through(inputs: Any, said: str) -> None:
    task = toy()
    batch = [InputGroup(inputs, {"level": torch.zeros(2, 1)})]
    vars(task)["batches"] = lambda split, seed: [batch]
    assert origin(task, "val", ["level"]) == (f"; of 2 in val, {said}" if said else "")
