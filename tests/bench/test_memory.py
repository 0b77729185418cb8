"""``mtlbench bench memory``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtlbench.bench import memory
from mtlbench.bench.memory import MemoryPlan, cases
from mtlbench.cli import main
from mtlbench.registry import METHODS, SHARPNESS
from tests.bench.plans import CPU, PACE, TINY, write

VISION = {
    "name": "tiny vision",
    "network": "VisionTransformer",
    "options": {
        "image_size": 8,
        "patch_size": 4,
        "num_layers": 1,
        "num_heads": 1,
        "hidden_dim": 4,
        "mlp_dim": 4,
    },
    "classifier": "heads",
    "features": 4,
    "image": 8,
    "batch": 2,
    "tasks": 2,
}
PLAN: dict[str, Any] = PACE | {
    "method": "upgrad",
    "networks": [VISION],
    "tasks": [{"task": "multimnist", "protocol": "mini", "examples": 2}],
    "methods": {"network": TINY.model_dump(), "most": {"graddrop": 1e-6, "mgda x sam": 1e6}},
}


def test_every_case_has_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "installed", lambda: False)
    plan, out = write(tmp_path / "plan.yaml", PLAN), tmp_path / "memory.csv"
    assert main(["bench", "memory", "--plan", plan, "--device", "cpu", "--out", str(out)]) == 0
    rows = pd.read_csv(out).set_index("case")
    networks = ("tiny vision", "multimnist mini")
    expected = [f"{name}: {way}" for name in networks for way in ("whole", "streamed")]
    assert list(rows.index) == [*expected, "tiny: graddrop", "tiny: mgda x sam"]
    assert (rows[["ms", "to_whole", "memory_mb", "n_parameters", "n_tasks"]] > 0).all(axis=None)
    assert list(rows["met"].dropna()) == [False, True]
    assert all(case in capsys.readouterr().out for case in expected[:1])


def test_default_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MemoryPlan.read()
    monkeypatch.setattr(memory, "installed", lambda: False)
    ours = [case.name for case in cases(plan, CPU)]
    monkeypatch.setattr(memory, "installed", lambda: True)
    peers = {case.name.partition(": ")[2] for case in cases(plan, CPU) if case.name not in ours}
    assert peers == {"autojac", "autogram"}
    for pair in plan.methods.most:
        method, _, sharpness = pair.partition(" x ")
        assert method in METHODS.names()
        assert not sharpness or sharpness in SHARPNESS.names()
