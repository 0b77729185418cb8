"""What is wrong with records that a table is made of, through the command line: each says what it
is and what to do. The records are committed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtlbench.boards.submission import draft, pack
from mtlbench.cli import main
from mtlbench.runs.record import read_record

BOARDS = Path(__file__).parent.parent / "leaderboards"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The reference, the baseline and another row of a committed table, three seeds each."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for method in ("stl", "ls", "uw"):
        for seed in range(3):
            of_one = (BOARDS / "records").glob(f"multimnist-mini-{method}-none-s{seed}-*.json")
            shutil.copy(max(of_one, key=version), folder)
    return folder


def version(path: Path) -> tuple[int, int]:
    """Of the protocol, and how short the training was."""
    identity = read_record(path).identity
    return identity.protocol_version, -identity.epochs


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
        lambda f: edit(uw(f), lambda c: c["identity"].update(protocol_version=99)),
        0,
        [
            "Rows of multimnist are in 2 tables, as they differ in protocol_version (",
            ", 99): none is compared with one of another table. Run rows again where they should "
            "not differ.",
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
    packed = boards / "submissions" / "uw"
    pack(draft(runs, boards), "uw", packed)
    check = ["leaderboard", str(packed), "--out", str(boards), "--check"]
    main(check)
    assert "SHA-256" not in capsys.readouterr().out
    path = uw(packed)[0]
    edit([path], lambda c: c["phases"][0]["selected"]["test"]["metrics"].update(left_accuracy=99))
    assert main(check) == 1
    said = f"{path.name}: was changed after it was packed (SHA-256); pack the record as it was made"
    assert said in capsys.readouterr().out
