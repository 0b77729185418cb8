"""The README's Python runs as it stands there, and its commands print what it says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtlbench import Batch, Task
from mtlbench.cli import main
from mtlbench.registry import METHODS, TASKS
from mtlbench.runs.execute import execute
from mtlbench.runs.record import RunRecord
from mtlbench.runs.spec import Run
from mtlbench.runs.store import Store
from tests import first_hour
from tests.front_table import BLOCK, front_table

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_it_counts_the_weighting_methods() -> None:
    found = re.search(r"weighting method\*\*\s\(([^)]*) and (\d+) more\)", README.read_text())
    assert found
    roles = [METHODS.get(name).info.role for name in METHODS.names()]
    assert len(found[1].split(", ")) + int(found[2]) == len(roles) - roles.count("reference")


def test_its_table_of_results_is_that_of_the_leaderboards() -> None:
    found = BLOCK.search(README.read_text())
    assert found
    assert found[0] == front_table(README.parent / "leaderboards")


def test_the_readme_shows_the_library_in_use() -> None:
    found = blocks()
    assert found
    assert any("Stepper(" in block for block in found)


def test_a_table_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    capsys.readouterr()
    assert main(["run", "mine:Mine", "--method", "ls", "--out", "without"]) == 2
    assert "mine:Mine cannot be made without --data (PATH/table.csv): " in capsys.readouterr().err
    del sys.modules["mine"]


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(), start=1):
        if "init_process_group" in block:
            continue  # tests/test_ranks.py starts its processes
        code = compile(block, f"{README.name}, Python block {number}", "exec")
        exec(code, {"__name__": "__main__"})


def table(text: str) -> list[str]:
    """The words of a printed leaderboard, without its figures."""
    (found,) = re.findall(r"^multimnist \(.*?^Δm%: .*?$", text, re.DOTALL | re.MULTILINE)
    figure = re.compile(r"[+-]?\d+\.\d+|\d{3,}")  # passes and seeds are none, a slow step is
    words = (re.sub("─+", "─", word) for word in found.split())
    return ["0.0" if figure.fullmatch(word) else word for word in words]


def test_the_table_is_what_quickstart_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Title, columns, rows and passes; figures are those of a run of its own."""
    cls = TASKS.get("multimnist")
    batches = cls.batches

    def few(task: Task, split: str, seed: int | None) -> Iterator[Batch]:
        yield from islice(batches(task, split, seed), 1)

    def here(
        runs: Sequence[Run],
        store: Store,
        backend: object,
        *,
        on_record: Callable[[Run, RunRecord], None],
        **_: object,
    ) -> None:
        for run in runs:
            on_record(run, execute(run, store))

    monkeypatch.setattr(cls, "batches", few)
    monkeypatch.setattr("mtlbench.runs.sweep.sweep", here)
    assert main(["quickstart", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert table(README.read_text()) == table(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_pages_on_a_fresh_clone() -> None:
    assert first_hour.main([]) == 0
