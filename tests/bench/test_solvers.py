"""``mtlbench bench solvers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtlbench.bench.solvers import SolversPlan, gramian
from mtlbench.bench.yardsticks import yardsticks
from mtlbench.cli import main
from mtlbench.engine.gramian import GramianMethod
from mtlbench.registry import METHODS
from tests.bench.plans import PACE, write

PLAN: dict[str, Any] = PACE | {
    "sizes": [2, 4],
    "parameters": 9,
    "families": ["independent", "scaled"],
    "methods": ["ls", "mgda", "fairgrad"],
    "targets": [
        {"method": "mgda", "yardstick": "cvxpy", "tasks": 4, "faster": 1e-6, "gap": 1},
        {"method": "fairgrad", "yardstick": "cvxpy", "tasks": 4, "faster": 1e-6, "gap": 1e-30},
        {"method": "fairgrad", "yardstick": "least squares", "tasks": 4, "faster": 1e6, "gap": 1},
    ],
}


def test_every_yardstick_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "solvers.csv"
    assert main(["bench", "solvers", "--plan", plan, "--out", str(out)]) == 0
    yardsticks = {
        "mgda": ["released loop", "released loop, full", "projected loop", "cvxpy"],
        "fairgrad": ["least squares", "cvxpy"],
    }
    expected = [
        f"{method} K={K} {family}: {yardstick}"
        for method in ("mgda", "fairgrad")
        for K in (2, 4)
        for family in ("independent", "scaled")
        for yardstick in yardsticks[method]
    ]
    rows = pd.read_csv(out).set_index("case")
    assert list(rows.index) == expected
    assert (rows["gap"] <= 1e-8).all()
    assert np.allclose(rows["faster"] * rows["ratio"], 1)
    met = rows["met"].dropna()
    assert met["mgda K=4 scaled: cvxpy"]
    assert not met["fairgrad K=4 independent: cvxpy"]  # its gap
    assert not met["fairgrad K=4 independent: least squares"]  # its time
    assert len(met) == 6
    printed = capsys.readouterr().out
    assert all(case in printed for case in expected)
    for header in ("ours ms", "its ms", "faster", "wanted", "gap", "its gap", "met"):
        assert header in printed


def test_what_finds_nothing_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("mtlbench.methods._certified._cvxpy_solve", fail)
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "solvers.csv"
    options = ["--case", "mgda K=2 scaled: cvxpy", "--out", str(out)]
    assert main(["bench", "solvers", "--plan", plan, *options]) == 0
    assert pd.read_csv(out)["reference_gap"].isna().all()


def test_default_plan_demands_what_there_is() -> None:
    plan = SolversPlan.read()
    for target in plan.targets:
        method = METHODS.build(target.method, target.tasks)
        assert isinstance(method, GramianMethod)
        assert target.yardstick in yardsticks(method).ways
        assert target.tasks in plan.sizes


@pytest.mark.parametrize("K", [2, 40])
def test_families(K: int) -> None:
    independent, conflicting, scaled = (
        gramian(family, K, 1000, 0) for family in ("independent", "conflicting", "scaled")
    )
    sizes = np.sqrt(np.diag(independent))
    cosines = independent / np.outer(sizes, sizes)
    assert np.abs(cosines - np.eye(K)).max() < 0.2
    assert (conflicting[0, 1::2] < -500).all()
    assert (conflicting[0, 2::2] > 500).all()
    norms = np.sqrt(np.diag(scaled)) / np.sqrt(1000)
    assert norms.min() == pytest.approx(1e-3, rel=0.1)
    assert norms.max() == pytest.approx(1e3, rel=0.1)
    np.testing.assert_array_equal(scaled, gramian("scaled", K, 1000, 0))
    assert (scaled != gramian("scaled", K, 1000, 1)).any()


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path / "plan.yaml", PLAN | {"families": ["odd"]})
    assert main(["bench", "solvers", "--plan", plan]) == 2
    assert "'independent', 'conflicting' or 'scaled'" in capsys.readouterr().err
