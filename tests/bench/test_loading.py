"""``mtlbench bench data``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtlbench.cli import main

DOMAINS = ("Art", "Clipart", "Product", "Real World")


def test_rates_with_and_without_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for i in range(5):
            path = tmp_path / domain / "Chair" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
            os.utime(path, (1e9, 1e9))
    before, out = os.environ.get("MTLBENCH_CACHE"), tmp_path / "rates.csv"
    options = ["--data", str(tmp_path), "--worker", "0", "1", "--device", "cpu", "--out", str(out)]
    assert main(["bench", "data", "office_home", *options]) == 0
    rows = pd.read_csv(out)
    assert list(rows["workers"]) == [0, 1]
    assert (rows[["open_s", "again_s", "cold", "warm", "step"]] > 0).all(axis=None)
    assert os.environ.get("MTLBENCH_CACHE") == before
    shown = capsys.readouterr().out
    assert "0 workers" in shown
    assert "warm / step" in shown
    assert main(["bench", "data", "office_home", "--data", str(tmp_path / "no")]) == 2
