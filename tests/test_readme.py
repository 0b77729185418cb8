"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtlbench.cli import main
from tests import first_hour

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_shows_the_library_in_use() -> None:
    found = blocks()
    assert found
    assert any("Stepper(" in block for block in found)


def test_a_table_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class reads a table with missing labels, and ends in rows."""
    (block,) = [block for block in blocks() if "class Mine(Task)" in block]
    (tmp_path / "mine.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(50, 4)), columns=["price", "age", "rooms", "floor"])
    table.loc[::7, "age"] = np.nan
    (tmp_path / "folder").mkdir()
    table.to_csv(tmp_path / "folder" / "table.csv", index=False)
    section = README.read_text().partition("## Your own data")[2]
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", section.partition("\n## ")[0], re.S | re.M)
    quicker = {"--seed 0 1 2": "--seed 0 --epochs 2", "stl ls fairgrad": "stl ls"}
    for text, instead in quicker.items():
        commands = commands.replace(text, instead)
    for line in commands.splitlines():
        assert main(shlex.split(line)[1:]) == 0
    rows = pd.read_csv(tmp_path / "boards" / "mine.csv")
    assert set(rows["status"]) == {"ok"}
    assert len(rows) == 3
    assert main(["check", "mine:Mine", "--data", "folder"]) == 0
    del sys.modules["mine"]


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(), start=1):
        code = compile(block, f"{README.name}, Python block {number}", "exec")
        exec(code, {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_pages_on_a_fresh_clone() -> None:
    assert first_hour.main([]) == 0
