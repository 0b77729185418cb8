"""Tuning within a sweep: the same number of trials for every cell, on seeds that are not
reported."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlbench.boards.build import build
from mtlbench.boards.folder import read_folder
from mtlbench.errors import UsageError
from mtlbench.runs.backends.here import Here
from mtlbench.runs.execute import execute
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.spec import RunSpec, command, prepare
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep
from mtlbench.runs.tune import reported, score_of, trials, tuned
from tests.test_cli import Mtlbench
from tests.test_runner import numbers
from tests.toy_task import TOY, ToyTask

LR = ToyTask.info.protocols[0].lr
TUNE: dict[str, Any] = {
    "seeds": [100, 101],
    "trials": 4,
    "lr": [1, 0.5, 2, 0.1],
    "methods": ["fairgrad:alpha={1,2}"],
    "sharpness": ["samo:rho={0.01,0.05}"],
}
SPEC: dict[str, Any] = {
    "tasks": [TOY],
    "methods": ["ls", "fairgrad"],
    "sharpness": ["none", "samo"],
    "seeds": [0, 1],
    "epochs": 1,
    "device": "cpu",
    "tune": TUNE,
}


def parsed(**changes: Any) -> SweepSpec:
    return SweepSpec.parse(SPEC | changes, "here")


def tried(spec: SweepSpec, seed: int = 100) -> dict[tuple[str, str], list[tuple[str, str, Any]]]:
    """Words and learning rate of each trial, by the names of method and wrapper."""
    found: dict[tuple[str, str], list[tuple[str, str, Any]]] = {}
    for each in trials(spec):
        if each.seed == seed:
            wrapper = each.sharpness or ""
            names = (each.method.partition(":")[0], wrapper.partition(":")[0])
            found.setdefault(names, []).append((each.method, wrapper, each.lr))
    return found


# ------------------------------------------------------------------------------------ trials
def test_every_cell_has_as_many_trials() -> None:
    for seed in TUNE["seeds"]:
        found = tried(parsed(), seed)
        cells = {(m, w) for m in ("ls", "fairgrad") for w in ("none", "samo")}
        assert set(found) == {("stl", "none"), *cells}
        assert {len(set(choices)) for choices in found.values()} == {4}
    assert {each.seed for each in trials(parsed())} == set(TUNE["seeds"])


def test_what_is_tried() -> None:
    found = tried(parsed())
    lrs = [None, LR / 2, LR * 2, LR / 10]
    assert found["ls", "none"] == [("ls", "none", lr) for lr in lrs]
    assert found["fairgrad", "none"] == [
        (f"fairgrad:alpha={alpha}", "none", lr) for lr in lrs[:2] for alpha in (1, 2)
    ]
    assert found["fairgrad", "samo"] == [
        (f"fairgrad:alpha={alpha}", f"samo:rho={rho}", None)
        for alpha in (1, 2)
        for rho in ("0.01", "0.05")
    ]


def test_words_with_options_are_taken_as_they_are() -> None:
    methods = ["fairgrad", "fairgrad:alpha=3"]
    tune = TUNE | {"sharpness": []}
    spec = parsed(methods=methods, sharpness=["none"], reference=False, tune=tune)
    alphas = [[each.method for each in trials(spec)][i : i + 4] for i in (0, 4)]
    assert set(alphas[0]) == {"fairgrad:alpha=1", "fairgrad:alpha=2"}
    assert set(alphas[1]) == {"fairgrad:alpha=3"}


def test_words_with_options_are_tuned_by_words_with_the_same() -> None:
    tune = TUNE | {"trials": 2, "methods": []}
    tune["sharpness"] = ["samo:rho={0.01,0.05}", "samo:noise=shared,rho={1,2},points=by-sign"]
    wrappers = ["samo", "samo:points=by-sign,noise=shared", "samo:rho=0.05"]
    spec = parsed(methods=["ls"], sharpness=wrappers, reference=False, tune=tune)
    made = [(each.sharpness, each.lr) for each in trials(spec) if each.seed == 100]
    assert made == [
        *(("samo:rho=0.01", None), ("samo:rho=0.05", None)),
        *((f"samo:noise=shared,rho={rho},points=by-sign", None) for rho in (1, 2)),
        *(("samo:rho=0.05", None), ("samo:rho=0.05", LR / 2)),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trials": 3}, "ls with samo: 2 choices of options, each with 1 to 4 of lr, cannot"),
        ({"trials": 8}, "stl with none: 1 choices of options, each with 1 to 4 of lr"),
        ({"seeds": [1, 100]}, "tune.seeds: 1 is among the seeds that are reported"),
        ({"seeds": []}, "tune.seeds: List should have at least 1 item"),
        ({"methods": ["mgda:normalize={none,l2}"]}, "'mgda:normalize={none,l2}' is of no cell"),
        ({"sharpness": ["sam:rho={1,2}"]}, "tune.sharpness: 'sam:rho={1,2}' is of no cell"),
        ({"sharpness": ["samo:noise=shared,rho={1,2}"]}, "none has 'samo:noise=shared'"),
        ({"lr": [1, 1]}, "tune.lr: 1.0 is there twice"),
        ({"lr": [0]}, "tune.lr.0: Input should be greater than 0"),
        ({"method": []}, "unknown key 'tune.method'; did you mean 'methods'?"),
        ({"methods": ["fairgrad:alpha={1,-1}"]}, "'fairgrad': option alpha=-1"),
    ],
    ids=str,
)
def test_bad_tuning(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked(trials(parsed(tune=TUNE | change)))
    assert said in str(caught.value)


def test_nothing_is_tuned_unasked() -> None:
    assert trials(parsed(tune=None)) == []


# ------------------------------------------------------------------------------------ choices
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The trials of the sweep."""
    store = Store(tmp_path_factory.mktemp("tune")).trials
    sweep(checked(trials(parsed())), store, Here())
    return store


def test_the_best_on_validation_is_reported(done: Store) -> None:
    spec = parsed()
    cells = tuned(spec, done)
    by_words: dict[Any, list[float]] = {}
    for record in done:
        phases = [phase.epochs[phase.selected_epoch].selection_score for phase in record.phases]
        i = record.identity
        key = (i.method, str(i.method_options), i.sharpness, str(i.sharpness_options), i.lr)
        by_words.setdefault(key, []).append(sum(phases) / len(phases))
    for cell in cells:
        i = prepare(cell.choice).identity
        key = (i.method, str(i.method_options), i.sharpness, str(i.sharpness_options), i.lr)
        same = [s for k, s in by_words.items() if (k[0], k[2]) == (i.method, i.sharpness)]
        assert len(same) == 4
        assert cell.score == pytest.approx(max(sum(scores) / 2 for scores in same))
        assert cell.score == pytest.approx(sum(by_words[key]) / 2)
    requests = reported(spec, cells)
    assert [(r.seed, r.method, r.sharpness, r.lr) for r in requests] == [
        (seed, c.choice.method, c.choice.sharpness, c.choice.lr) for seed in (0, 1) for c in cells
    ]
    assert len({c.choice.lr for c in cells}) > 1


def test_a_choice_needs_all_its_trials(done: Store, tmp_path: Path) -> None:
    spec, store = (
        parsed(methods=["ls"], sharpness=["none"], reference=False, tune=LS),
        Store(tmp_path),
    )
    (best,) = tuned(spec, done)
    for record in done:
        i = record.identity
        if i.method == "ls" and i.sharpness == "none":
            lost = i.lr == prepare(best.choice).identity.lr and i.seed == 101
            ended = {"status": "diverged", "phases": []} if lost else {}
            store.write(record.model_copy(update=ended))
    (second,) = tuned(spec, store)
    assert second.choice.lr != best.choice.lr
    assert second.score < best.score


LS = TUNE | {"methods": [], "sharpness": []}


def test_without_trials_it_is_the_first_choice(tmp_path: Path) -> None:
    cells = tuned(parsed(), Store(tmp_path))
    assert {cell.score for cell in cells} == {-math.inf}
    assert [cell.choice.method for cell in cells][1] == "ls"
    assert {cell.choice.lr for cell in cells} == {None}


def test_a_grid_with_some_of_the_seeds_is_reported_with_them(tmp_path: Path) -> None:
    grids = [{"methods": ["ls", "fairgrad"], "sharpness": ["samo"], "seeds": [1]}]
    spec = parsed(sharpness=["none"], grids=grids)
    requests = reported(spec, tuned(spec, Store(tmp_path)))
    by_seed = [[r.sharpness for r in requests if r.seed == seed] for seed in (0, 1)]
    assert by_seed == [["none"] * 3, ["none"] * 3 + ["samo:rho=0.01"] * 2]


def test_trials_are_no_part_of_a_board(done: Store, tmp_path: Path) -> None:
    records = list(done)
    assert len(records) == 5 * 4 * 2
    assert read_folder(done.folder.parent) == ([], [])
    assert len(read_folder(done.folder)[0]) == len(records)
    assert all(score_of(record) > -math.inf for record in records)


def test_the_command_tries_chooses_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, out = tmp_path / "sweep.yaml", tmp_path / "out"
    content = SPEC | {"sharpness": ["none"], "tune": TUNE | {"trials": 2, "sharpness": []}}
    spec.write_text(yaml.safe_dump(content))
    words = ["sweep", spec, "--out", out]
    mtlbench = Mtlbench(capsys)
    planned = mtlbench(*words, "--dry-run").out
    assert "12 trials, 0 done; 12 to run" in planned
    assert "6 runs, 0 done; 6 to run" in planned
    assert not out.exists()
    ended = mtlbench(*words, "--engine", "here")
    assert ended.code == 0
    assert "12 runs to do, 20 epochs" in ended.out
    assert "Chosen by one seed" not in ended.out
    assert len(list(Store(out / "trials"))) == 12
    assert {r.identity.seed for r in Store(out)} == {0, 1}
    (board,) = build(read_folder(out)[0]).values()
    assert len(board.rows) == 3
    status = mtlbench(*words, "--status").out
    assert "12 trials: 12 done" in status
    assert "6 runs: 6 done" in status
    assert "12 of them done before" in mtlbench(*words).out


# ------------------------------------------------------------------------------------ lr
def test_the_learning_rate_of_a_run(tmp_path: Path) -> None:
    plain, same, other = (
        prepare(RunSpec(TOY, "ls", device="cpu", lr=lr)) for lr in (None, LR, LR / 2)
    )
    assert plain.identity == same.identity
    assert "lr" not in plain.identity.model_dump(exclude_defaults=True)
    assert other.identity.digest != plain.identity.digest
    assert command(plain) == command(same)
    assert f"--lr {LR / 2}" in command(other)
    first, second = (execute(run, Store(tmp_path)) for run in (plain, other))
    assert numbers(first)["phases"] != numbers(second)["phases"]
    protocol = dataclasses.replace(other.task.protocol, lr=LR / 2)
    task = ToyTask(protocol)
    third = execute(dataclasses.replace(plain, task=task), Store(tmp_path / "other"))
    assert numbers(third)["phases"] == numbers(second)["phases"]
    (board,) = build([first, second]).values()
    assert set(board.rows["method_options"]) == {"", f"learning_rate={LR / 2}"}


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_learning_rate(lr: float) -> None:
    with pytest.raises(UsageError, match="lr must be greater than 0"):
        prepare(RunSpec(TOY, "ls", device="cpu", lr=lr))


def test_a_learning_rate_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", TOY, "--method", "ls", "--epochs", 1, "--lr", 0.5, "--out", tmp_path]
    assert Mtlbench(capsys)(*words, "--device", "cpu").code == 0
    (record,) = Store(tmp_path)
    assert record.identity.lr == 0.5
    assert "--lr 0.5" in record.provenance.command
