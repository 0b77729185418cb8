"""What a protocol has for single tasks, weights and the size of a step, through runs to tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlbench.boards.build import build
from mtlbench.boards.folder import read_folder
from mtlbench.errors import UsageError
from mtlbench.interfaces import Protocol
from mtlbench.registry import Spec
from mtlbench.runs.execute import execute
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.record import read_record
from mtlbench.runs.spec import Run, RunSpec, command, prepare
from mtlbench.runs.store import Store
from mtlbench.training.evaluate import evaluate
from mtlbench.training.trainer import Trainer
from tests.toy_task import TOY, ToyTask

LONE = f"{__name__}:Lone"
ALONE = {"arch": "linear", "epochs": 3, "lr": 0.05}


class Lone(ToyTask):
    """Single tasks have a network, a length and a learning rate of their own."""

    info = replace(
        ToyTask.info,
        protocols=(
            Protocol(
                name="lone",
                version=1,
                arch="wide",
                epochs=2,
                batch_size=4,
                lr=0.01,
                clip_norm=0.5,
                weights="a file",
                alone=ALONE,
                published=True,
            ),
        ),
    )

    def meters_otherwise(self) -> Any:
        return {"kind_accuracy": self.meters()["kind_accuracy"]}


def run(method: str, **changes: Any) -> Run:
    return prepare(RunSpec(LONE, method, device="cpu", **changes))


def test_a_group_is_of_a_protocol_not_of_a_network(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [run("stl"), run("ls"), run("ls", epochs=4), run("uw", clip_norm=0.1)]
    records = [execute(each, store) for each in runs]
    assert [len(r.phases[0].epochs) for r in records] == [3, 2, 4, 2]
    board = build(read_folder(tmp_path)[0])["toy"]
    (rows,) = board.groups()
    assert set(rows["architecture"]) == {"wide random init"}
    assert set(rows["epochs"]) == {2}
    options = rows["method_options"].str.split(",code").str[0]
    assert list(zip(rows["method"], options, strict=True)) == [
        ("stl", "architecture=linear,epochs=3"),
        ("ls", ""),
        ("ls", "epochs=4"),
        ("uw", "clip_norm=0.1,lr=0.001"),
    ]
    assert rows["delta_m"].notna().all()
    assert list(rows["role"]) == ["reference", "baseline", "method", "method"]


def test_a_reference_that_is_asked_for_as_the_others_are_is_as_they_are() -> None:
    asked = run("stl", epochs=5, architecture="wide").identity
    assert (asked.epochs, asked.architecture, asked.among) == (5, "wide", None)
    assert run("stl", architecture="wide").identity.among is not None  # the length differs


def test_what_was_run_before_keeps_its_digest() -> None:
    """Under a protocol that says nothing new, no field of the identity is written."""
    identity = prepare(RunSpec(TOY, "stl", device="cpu")).identity
    new = {"among", "clip_norm", "gradient_scale", "without_weights"}
    assert not new & identity.model_dump(exclude_defaults=True).keys()


@pytest.mark.parametrize(
    ("changes", "clip", "scale"),
    [
        ({}, None, None),
        ({"clip_norm": 0.5, "gradient_scale": "paper"}, None, None),
        ({"clip_norm": 0.1}, 0.1, None),
        ({"gradient_scale": "sum"}, None, "sum"),
    ],
)
def test_the_size_of_a_step_is_part_of_what_a_run_is(changes: Any, clip: Any, scale: Any) -> None:
    identity = run("ls", **changes).identity
    assert (identity.clip_norm, identity.gradient_scale) == (clip, scale)
    assert (identity.digest == run("ls").identity.digest) == ((clip, scale) == (None, None))
    assert ("--clip-norm" in command(run("ls", **changes))) == (clip is not None)


@pytest.mark.parametrize("bad", [{"clip_norm": 0.0}, {"gradient_scale": "mean"}])
def test_a_size_that_is_none(bad: Any) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        run("ls", **bad)


def test_a_grid_says_how_its_cells_are_stepped() -> None:
    content = {
        "tasks": [LONE],
        "methods": ["ls"],
        "grids": [{"methods": ["uw"], "clip_norm": 0.1, "gradient_scale": "sum", "lr": 0.02}],
        "tune": {"seeds": [9], "trials": 2, "lr": [1, 3]},
    }
    spec = SweepSpec.parse(content, "here")
    found = {r.method: (r.clip_norm, r.gradient_scale, r.lr) for r in spec.requests()}
    assert found == {
        "stl": (None, None, None),
        "ls": (None, None, None),
        "uw": (0.1, "sum", 0.02),
    }
    chosen = spec.request(LONE, "uw:lr=0.1", "none", 0, ("uw", "none"))
    assert chosen.clip_norm == 0.1


def test_the_bound_is_that_of_the_shared_gradient() -> None:
    task = run("ls").task
    trainer = Trainer(
        task,
        task.info.objectives,
        architecture="wide",
        method=Spec.parse("ls"),
        sharpness=Spec.parse("none"),
        seed=0,
        device=torch.device("cpu"),
        clip_norm=1e-3,
    )
    (batch, *_) = task.batches("train", 0)
    trainer.stepper.step(batch, task.loss)
    assert float(trainer.stepper.flat.grad.rows[0].norm()) == pytest.approx(1e-3, rel=1e-5)


def test_what_is_measured_in_another_way_is_kept_and_judges_nothing(tmp_path: Path) -> None:
    record = execute(run("ls"), Store(tmp_path))
    (file,) = tmp_path.glob("*.json")
    scores = read_record(file).phases[0].selected["test"]
    assert scores.otherwise == {"kind_accuracy": scores.metrics["kind_accuracy"]}
    assert scores.metrics.keys() == record.scores().keys()
    plain = prepare(RunSpec(TOY, "ls", device="cpu")).task
    cpu = torch.device("cpu")
    dumped = evaluate(plain.build_model("wide"), plain, "val", ["kind"], cpu).model_dump()
    assert dumped.keys() == {"metrics", "losses"}
