"""``mtlbench bench engine``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtlbench.bench.engine import EnginePlan
from mtlbench.bench.workloads import cnn
from mtlbench.cli import main
from mtlbench.registry import TASKS
from tests.bench.plans import CPU, PACE, TINY, write

PLAN: dict[str, Any] = PACE | {
    "networks": [TINY.model_dump()],
    "tasks": [],
    "plain": {"target": 1000, "methods": ["ls", "famo", "mgda"]},
    "wrapped": {"target": 1e-6, "methods": ["ls", "mgda"], "sharpness": ["samo", "fmtl"]},
    "loss_based": {"target": 1000, "networks": ["tiny"]},
    "heads": [{"task": "multimnist", "protocol": "mini", "target": 1000}],
    "gramian": {"target": 1000, "tasks": [3], "parameters": [10_000]},
    "start": [],
    "yardsticks": [{"task": "qm9", "protocol": "mini", "target": 1000}],
}

# torch_geometric's own use of a deprecated function, when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


@pytest.mark.timeout(300)  # imports every task, and torch_geometric
def test_every_case_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "new" / "engine.csv"
    assert main(["bench", "engine", "--plan", plan, "--device", "cpu", "--out", str(out)]) == 0
    expected = ["tiny: ls", "tiny: famo", "tiny: mgda"]
    for wrapper in ("samo", "fmtl"):
        expected += [f"tiny: {method} x {wrapper}" for method in ("ls", "mgda")]
    rows = pd.read_csv(out)
    loss_based = [case for case in rows["case"] if " over " in case]
    assert {"tiny: famo over ls", "tiny: uw over ls"} <= set(loss_based)
    assert not {f"tiny: {method} over ls" for method in ("ls", "stl", "mgda")} & set(loss_based)
    last = ["multimnist mini: all heads", "gramian: K=3, P=10000", "qm9 mini: NNConv"]
    assert list(rows["case"]) == [*expected, *loss_based, *last]
    numbers = rows[["ours_ms", "reference_ms", "ratio", "ratio_low", "ratio_high", "cpu_ratio"]]
    assert (numbers > 0).all(axis=None)
    assert (rows["rounds"] == 1).all()
    assert list(rows["met"]) == [" x " not in case for case in rows["case"]]
    printed = capsys.readouterr().out
    for header in ("case", "ours ms", "reference ms", "ratio", "target", "met"):
        assert header in printed
    assert all(case in printed for case in rows["case"])
    verdicts = Counter(line.split()[-1] for line in printed.splitlines() if ": " in line)
    assert (verdicts["yes"], verdicts["NO"]) == (rows["met"].sum(), (~rows["met"]).sum())


def test_tasks_have_cases_too(tmp_path: Path) -> None:
    changes = {"tasks": ["multimnist"], "yardsticks": []}
    plan, out = write(tmp_path / "plan.yaml", PLAN | changes), tmp_path / "engine.csv"
    options = ["--case", "multimnist: m*", "--out", str(out), "--device", "cpu"]
    assert main(["bench", "engine", "--plan", plan, *options]) == 0
    cases = ["multimnist: mgda", "multimnist: mgda x samo", "multimnist: mgda x fmtl"]
    assert set(cases) <= set(pd.read_csv(out)["case"])


def test_default_plan() -> None:
    plan = EnginePlan.read()
    assert set(plan.tasks) <= set(TASKS.names())
    assert plan.plain.methods is None
    (large, small) = [cnn(size, 0, CPU).build() for size in plan.networks]
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(5e6, rel=0.02)
    assert len(list(large.parameters())) == len(list(small.parameters()))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"rounds": 0}, [], "rounds"),
        ({"colour": "red"}, [], "colour"),
        ({"tasks": ["qm8"]}, ["--case", "qm8: ls"], "unknown task 'qm8'; valid: "),
        ({"loss_based": {"target": 1, "networks": ["cnn"]}}, [], "no network 'cnn'; valid: tiny"),
        ({"yardsticks": [PLAN["yardsticks"][0] | {"protocol": "big"}]}, [], "no protocol 'big'"),
        ({"heads": [PLAN["heads"][0] | {"task": "qm8"}]}, ["--case", "qm8*"], "unknown task 'qm8'"),
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
    plan = write(tmp_path / "plan.yaml", PLAN | changes)
    assert main(["bench", "engine", "--plan", plan, "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_missing_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--plan", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
