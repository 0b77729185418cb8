from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from mtlbench import bench
from mtlbench.cli import main
from mtlbench.registry import METHODS, TASKS

CPU = torch.device("cpu")
TINY = bench.CNN(name="tiny", widths=[4, 6], features=5, image=8, batch=4, tasks=3)
PLAN: dict[str, Any] = {
    "seed": 0,
    "rounds": 1,
    "seconds": 0,
    "networks": [TINY.model_dump()],
    "tasks": ["multimnist"],
    "plain": {"target": 1000, "methods": None},
    "wrapped": {"target": 1e-6, "methods": ["ls", "mgda"], "sharpness": ["samo", "fmtl"]},
    "yardsticks": [{"task": "qm9", "protocol": "mini", "target": 1000}],
}

# torch_geometric's own use of a deprecated function, when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def write(path: Path, **changes: Any) -> str:
    path.write_text(yaml.safe_dump(PLAN | changes))
    return str(path)


@pytest.mark.timeout(300)  # imports every task, and torch_geometric
def test_every_case_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = write(tmp_path / "plan.yaml"), tmp_path / "new" / "engine.csv"
    assert main(["bench", "engine", "--plan", plan, "--device", "cpu", "--out", str(out)]) == 0
    expected = []
    for network in ("tiny", "multimnist"):
        expected += [f"{network}: {method}" for method in METHODS.names()]
        for wrapper in ("samo", "fmtl"):
            expected += [f"{network}: {method} x {wrapper}" for method in ("ls", "mgda")]
    rows = pd.read_csv(out)
    assert list(rows["case"]) == [*expected, "qm9 mini: NNConv"]
    numbers = rows[["ours_ms", "reference_ms", "ratio", "ratio_low", "ratio_high", "cpu_ratio"]]
    assert (numbers > 0).all(axis=None)
    assert (rows["rounds"] == 1).all()
    assert list(rows["met"]) == [" x " not in case for case in rows["case"]]
    printed = capsys.readouterr().out
    for header in ("case", "ours ms", "reference ms", "ratio", "target", "met"):
        assert header in printed
    assert all(case in printed for case in rows["case"])
    verdicts = Counter(line.split()[-2] for line in printed.splitlines() if ": " in line)
    assert (verdicts["yes"], verdicts["NO"]) == (rows["met"].sum(), (~rows["met"]).sum())


def test_default_plan() -> None:
    plan = bench.Plan.read()
    assert set(plan.tasks) <= set(TASKS.names())
    (large, small) = [bench.cnn(size, 0, CPU).build() for size in plan.networks]
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(5e6, rel=0.02)
    assert len(list(large.parameters())) == len(list(small.parameters()))


@pytest.mark.parametrize("method", METHODS.names())
def test_hand_written_step_is_the_same_step(method: str) -> None:
    work = bench.cnn(TINY, 0, CPU)
    stepper, hand = work.stepper(method, "none"), bench.HandWritten(work, method)
    for optimizer in (stepper.optimizer, hand.optimizer):
        optimizer.param_groups[0]["lr"] = 1e-2
    for _ in range(3):
        stepper.step(work.batch, work.loss)
        hand()
    theirs = dict(hand.model.named_parameters())
    for name, mine in stepper.model.named_parameters():
        torch.testing.assert_close(mine, theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "sharpness", "forwards", "backwards", "parts"),
    [
        ("ls", "none", 1, 1, 1),
        ("famo", "none", 2, 1, 1),
        ("mgda", "none", 1, 3, 1),
        ("ls", "sam", 2, 2, 1),
        ("mgda", "sam", 2, 4, 1),
        ("ls", "samo", 10, 4, 1),
        ("famo", "samo", 11, 4, 1),
        ("mgda", "fmtl", 4, 6, 2),
    ],
)
def test_passes_of_a_step(
    method: str, sharpness: str, forwards: int, backwards: int, parts: int
) -> None:
    calls = bench.passes(bench.cnn(TINY, 0, CPU), method, sharpness)
    traced = [call.args[1] for call in calls if getattr(call, "func", None) is bench.run_pass]  # type: ignore[attr-defined]
    assert len(traced) == forwards
    assert sum(p.backward for p in traced) == backwards
    assert len(calls) == forwards + parts + 1
    for call in calls:
        call()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"rounds": 0}, [], "rounds"),
        ({"colour": "red"}, [], "colour"),
        ({"tasks": ["qm8"]}, [], "unknown task 'qm8'; valid: "),
        ({"yardsticks": [PLAN["yardsticks"][0] | {"protocol": "big"}]}, [], "no protocol 'big'"),
        ({}, ["--case", "nothing"], "no case is like 'nothing'"),
        ({}, ["--device", "abacus"], "abacus"),
        ({}, ["--out", "/proc/nowhere/a.csv"], "/proc/nowhere"),
    ],
)
def test_bad_requests(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    plan = write(tmp_path / "plan.yaml", **changes)
    assert main(["bench", "engine", "--plan", plan, "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_missing_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--plan", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
