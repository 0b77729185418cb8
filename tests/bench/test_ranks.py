"""``mtlbench bench ranks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mtlbench.bench.ranks import RanksPlan, cases, measured
from mtlbench.cli import main
from mtlbench.errors import UsageError
from tests.bench.plans import PACE, TINY, write

PLAN: dict[str, Any] = PACE | {
    "network": TINY.model_dump() | {"batch": 4},
    "ranks": [1, 2],
    "methods": ["ls", "mgda"],
    "sharpness": ["none"],
    "sharded": ["mgda"],
}


@pytest.mark.slow
def test_every_case_has_a_row(tmp_path: Path) -> None:
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "ranks.csv"
    assert main(["bench", "ranks", "--plan", plan, "--device", "cpu", "--out", str(out)]) == 0
    rows = pd.read_csv(out)
    assert list(rows["case"]) == [case.name for case in cases(RanksPlan.read(Path(plan)))]
    assert (rows["ms"] > 0).all()
    alone = rows["ranks"] == 1
    assert (rows.loc[alone, ["calls", "sums"]] == 0).all(axis=None)
    ls, whole, sharded = rows.loc[~alone, "sums"]
    K = TINY.tasks
    assert ls < whole
    assert sharded < whole
    assert whole - sharded == pytest.approx((K - 1) / 2, rel=0.05)


def test_default_plan_has_every_kind() -> None:
    plan = RanksPlan.read()
    names = [case.name for case in cases(plan)]
    assert len(names) == len(set(names)) == len(plan.sharpness) * (3 * len(plan.methods) + 2)


def test_a_device_that_has_no_processes_is_refused() -> None:
    case = next(case for case in cases(RanksPlan.read()) if case.size == 2)
    with pytest.raises(UsageError, match="on the CPU or on CUDA, not on mps"):
        measured(case, rounds=1, seconds=0, device=torch.device("mps"), threads=1)
