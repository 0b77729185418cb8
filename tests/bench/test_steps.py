"""``mtlbench bench step``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from mtlbench.bench.steps import StepPlan, cases
from mtlbench.bench.workloads import cnn
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.cli import main
from mtlbench.registry import SHARPNESS
from tests.bench.plans import CPU, PACE, TINY, Raced, write

RACED = "tests.bench.plans:Raced"
PLAN: dict[str, Any] = PACE | {
    "tasks": ["multimnist"],
    "methods": ["mgda"],
    "sharpness": ["none", "looksam:every=2"],
    "growth": {"network": TINY.model_dump(), "tasks": [2, 3], "width": [1, 2]},
    "targets": {
        "network": TINY.model_dump(),
        "cases": [
            {"method": "ls", "sharpness": f"{RACED}:pause=0", "faster": 1e-9, "passes": 1e6},
            {"method": "ls", "sharpness": f"{RACED}:pause=0.01", "faster": 1e9, "passes": 1e6},
            {"method": "ls", "sharpness": f"{RACED}:pause=0.02", "faster": 1e-9, "passes": 1e-6},
        ],
    },
}


def test_every_case_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "step.csv"
    options = ["--plan", plan, "--device", "cpu", "--out", str(out), "--case", "tiny*"]
    assert main(["bench", "step", *options]) == 0
    networks = ("tiny K=2 x1", "tiny K=3 x1", "tiny K=3 x2")
    expected = [
        f"{network}: mgda x {sharpness}"
        for network in networks
        for sharpness in ("none", "looksam:every=2")
    ]
    rows = pd.read_csv(out).set_index("case")
    targets = [f"tiny: ls x {target['sharpness']}" for target in PLAN["targets"]["cases"]]
    assert list(rows.index) == [*expected, *targets]
    numbers = rows[["ms", "to_baseline", "to_passes", "memory_mb", "n_parameters", "n_tasks"]]
    assert (numbers > 0).all(axis=None)
    passes = rows[["forward", "backward"]].apply(tuple, axis=1).to_dict()
    assert passes["tiny K=2 x1: mgda x none"] == (1, 2)
    assert passes["tiny K=3 x1: mgda x none"] == (1, 3)
    assert passes["tiny K=3 x1: mgda x looksam:every=2"] == (1.5, 3.5)
    (a, b, c) = (rows["n_parameters"][f"{network}: mgda x none"] for network in networks)
    assert a < b < c
    demanded = rows[rows["met"].notna()]
    assert list(demanded["met"]) == [True, False, False]  # too slow; more than its passes
    model, optimizer, method, batch, loss = Raced.made_of[0]
    assert len(model.heads) == method.n_tasks == 3
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert isinstance(
        loss("task0", model(batch[0].inputs)["task0"], batch[0].targets["task0"]), Tensor
    )
    printed = capsys.readouterr().out
    assert all(case in printed for case in expected)


def test_options_narrow_the_plan() -> None:
    plan = StepPlan.model_validate(PLAN)

    def chosen(*choice: Any) -> list[str]:
        return [case.name for case in cases(plan.narrowed(*choice), CPU)]

    assert len(chosen(None, None, None, None, None)) == 4 * 2 + 3
    assert chosen(["qm9"], ["uw"], ["sam"], None, None) == ["qm9: uw x sam"]
    assert chosen(None, ["uw"], ["sam"], [4], [0.5]) == [
        "tiny K=4 x1: uw x sam",
        "tiny K=3 x0.5: uw x sam",
    ]
    assert len(chosen(None, ["uw"], None, None, None)) == 4 * 2


def test_default_plan() -> None:
    plan = StepPlan.read()
    names = [case.name for case in cases(plan, CPU)]
    assert len(set(names)) == len(names)
    parameters = cnn(plan.targets.network, 0, CPU).build().parameters()
    assert sum(p.numel() for p in parameters) == pytest.approx(5e6, rel=0.02)
    for target in plan.targets.cases:
        assert yardsticks(SHARPNESS.build(target.sharpness))


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path / "plan.yaml", PLAN)
    for options, message in [
        (["--sharpness", "blunt", "--k", "2"], "unknown sharpness wrapper 'blunt'"),
        (["--method", "moses", "--k", "2"], "unknown method 'moses'"),
        (["--task", "qm8"], "unknown task 'qm8'"),
    ]:
        assert main(["bench", "step", "--plan", plan, "--device", "cpu", *options]) == 2
        assert message in capsys.readouterr().err
