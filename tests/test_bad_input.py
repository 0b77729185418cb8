"""What is wrong with records that a table is made of, through the command line: each says what it
is and what to do. The records are committed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtlbench.cli import main

BOARDS = Path(__file__).parent.parent / "leaderboards"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The reference, the baseline and another row of a committed table, three seeds each."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for method in ("stl", "ls", "uw"):
        for path in (BOARDS / "records").glob(f"multimnist-mini-{method}-none-*.json"):
            shutil.copy(path, folder)
    assert len(list(folder.iterdir())) == 9
    return folder


def edit(paths: list[Path], change: Callable[[dict[str, Any]], object]) -> None:
    for path in paths:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content) + "\n")


def remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def uw(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-uw-*"))


def nan(content: dict[str, Any]) -> None:
    content["phases"][0]["selected"]["test"]["metrics"]["left_accuracy"] = float("nan")


CASES: dict[str, tuple[Callable[[Path], object], int, list[str]]] = {
    "mixed protocols": (
        lambda f: edit(uw(f), lambda c: c["identity"].update(protocol_version=2)),
        0,
        [
            "Rows of multimnist are in 2 tables, as they differ in protocol_version (1, 2): none "
            "is compared with one of another table. Run rows again where they should not differ.",
        ],
    ),
    "no reference": (
        lambda f: remove(f, "*-stl-*"),
        0,
        [
            "No Δm%: the group has 0 reference rows.",
            "Nothing is compared: there is no Δm% without a complete reference row; run "
            "--method stl with the seeds of the others.",
        ],
    ),
    "one seed": (
        lambda f: remove(f, "*-s[12]-*"),
        0,
        ["Nothing is compared: that takes two rows with two seeds in common; run more (--seed)."],
    ),
    "unequal seeds": (
        lambda f: remove(f, "*-uw-*-s2-*"),
        0,
        [
            "UW with none: 2/3 seeds: seed 2 missing",
            "compared on those that it has, and not ranked; run them to have it ranked.",
            "Of 1 pairs, paired by seed (2 seeds)",
        ],
    ),
    "a NaN": (
        lambda f: edit(uw(f)[:1], nan),
        0,
        [
            "UW with none: 2/3 seeds: seed 0 without left_accuracy",
            "A metric that is NaN counts as none: what made it so is to be mended, the record "
            "deleted, and the run made again.",
        ],
    ),
    "a duplicate": (
        lambda f: shutil.copy(uw(f)[0], f / "copy.json"),
        1,
        ["copy.json is another record of the run in ", "-uw-none-s0-", "; delete one of them"],
    ),
    "an older schema": (
        lambda f: edit(uw(f)[:1], lambda c: c.update(schema_version=0)),
        1,
        [
            "is of schema version 0; this mtlbench reads version 1: make the run again",
            "UW with none: 2/3 seeds: seed 0 missing",
        ],
    ),
}


@pytest.mark.parametrize(("spoil", "code", "said"), CASES.values(), ids=CASES)
def test_bad_records(
    spoil: Callable[[Path], object],
    code: int,
    said: list[str],
    runs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(runs)
    assert main(["leaderboard", str(runs), "--out", str(runs.parent)]) == code
    shown = capsys.readouterr()
    words = " ".join(f"{shown.out} {shown.err}".split())
    for each in said:
        assert each in words


def test_a_tampered_record(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards = runs.parent / "boards"
    shutil.copytree(BOARDS / "specs", boards / "specs")
    assert main(["submit", str(runs), "--name", "uw", "--folder", str(boards)]) == 0
    packed = boards / "submissions" / "uw"
    check = ["leaderboard", str(packed), "--out", str(boards), "--check"]
    assert main(check) == 0
    path = uw(packed)[0]
    text = path.read_text()
    path.write_text(text.replace("89.8,", "99.8,"))
    assert path.read_text() != text
    capsys.readouterr()
    assert main(check) == 1
    said = f"{path.name}: was changed after it was packed (SHA-256); pack the record as it was made"
    assert said in capsys.readouterr().out
