"""CONTRIBUTING.md, followed as it stands there by somebody who is new."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from mtlbench.cli import main
from mtlbench.runs.code import code_of
from mtlbench.runs.record import read_record
from mtlbench.runs.store import Store
from mtlbench.testing import check
from tests.models import make_stepper, passes_of_a_step, single_batch, tiny_model
from tests.toy_task import TOY

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
METHOD, WRAPPER, TASK = "LossProportional", "RandomBall", "Waves"


def section(title: str) -> str:
    """What stands below a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the templates in files named after what they declare."""
    for title in ("Add a weighting method", "Add a sharpness wrapper", "Add a task"):
        (template,) = blocks(title, "python")
        name = re.findall(r'name="(\w+)"', template)[0]
        (tmp_path / f"{name}.py").write_text(template)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("lossprop", "randomball", "waves"):
        sys.modules.pop(name, None)


def commands(title: str) -> list[list[str]]:
    """The page's commands; the templates are imported, and one seed of the toy task is quicker."""
    instead = {
        "lossprop": f"lossprop:{METHOD}",
        "randomball": f"randomball:{WRAPPER}",
        "waves": f"waves:{TASK}",
        "multimnist": TOY,
    }
    text = "".join(blocks(title, "bash")).replace("{0..19}", "0 1 2")
    text = text.replace("--seed 0 1 2", "--seed 0 --epochs 1")
    return [[instead.get(word, word) for word in shlex.split(line)] for line in text.splitlines()]


def test_from_the_template_to_a_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = commands("Add a weighting method")
    assert [words[:2] for words in steps] == [
        ["mtlbench", "check"],
        ["mtlbench", "run"],
        ["mtlbench", "leaderboard"],
    ]
    for _, *words in steps:
        assert main(words) == 0
    assert "FAILED" not in capsys.readouterr().out

    rows = pd.read_csv(folder / "boards" / "toy.csv").set_index("method")
    assert set(rows.index) == {"stl", "ls", "lossprop"}
    row = rows.loc["lossprop"]
    assert (row["method_title"], row["status"]) == ("Loss-proportional", "ok")
    assert pd.notna(row["delta_m"])


def test_the_template_claims_what_holds_and_nothing_else(folder: Path) -> None:
    verdicts = {finding.verdict for finding in check(f"lossprop:{METHOD}")}
    assert verdicts == {"ok", "does not hold"}


def test_the_method_that_looks_costs_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (template,) = blocks("Look at further batches", "python")
    (tmp_path / "gap.py").write_text(template)
    monkeypatch.syspath_prepend(tmp_path)
    stepper = make_stepper(tiny_model(), "gap:Gap", "sam")
    assert passes_of_a_step(stepper, single_batch()) == (4, 3, 0)
    assert stepper.coming_passes == stepper.passes
    del sys.modules["gap"]


@pytest.mark.slow
def test_the_method_that_looks_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (template,) = blocks("Look at further batches", "python")
    (tmp_path / "gap.py").write_text(template)
    monkeypatch.syspath_prepend(tmp_path)
    assert not [finding for finding in check("gap:Gap") if finding.failed]
    del sys.modules["gap"]


def test_the_wrapper_conforms(folder: Path) -> None:
    checked, run = commands("Add a sharpness wrapper")
    assert main(checked[1:]) == 0
    assert run[:2] == ["mtlbench", "run"]


def test_the_task_conforms_and_yields_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, *words in commands("Add a task"):
        assert main(words) == 0
    assert "FAILED" not in capsys.readouterr().out
    rows = pd.read_csv(folder / "boards" / "waves.csv")
    assert len(rows) == 5
    assert rows["delta_m"].notna().all()


def test_the_entry_points_name_the_templates() -> None:
    (snippet,) = blocks("In a package of your own", "toml")
    for group, cls in (("methods", METHOD), ("sharpness", WRAPPER), ("tasks", TASK)):
        assert re.search(rf'"mtlbench\.{group}"\]\n\w+ = "[\w.]+:{cls}"', snippet)


def test_results_are_submitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = folder / "leaderboards" / "specs"
    specs.mkdir(parents=True)
    content = f"tasks: [{TOY}]\nmethods: [ls]\nseeds: [0]\nepochs: 1\n"
    (specs / "toy.yaml").write_text(content)
    run, submit, check_it, verify, rebuild = commands("Submit results")
    submit[submit.index("--name") + 1] = "lossprop"
    assert main([*run[1:], "--jobs", "1"]) == 0
    for path in (folder / "runs").glob("*.json"):  # this checkout may be at work
        made = read_record(path)
        clean = made.provenance.model_copy(update={"dirty": False})
        Store(path.parent).write(made.model_copy(update={"provenance": clean}))
    assert main(submit[1:]) == 0
    assert main(check_it[1:]) == 0
    (path,) = folder.glob(verify[-1])
    assert main(["verify", str(path)]) == 0
    assert "bit-equal" in capsys.readouterr().out
    (folder / "leaderboards" / "records").mkdir()
    for path in (folder / "runs").glob("toy-mini-*-none-*.json"):
        if "lossprop" not in path.name:
            Store(folder / "leaderboards" / "records").write(read_record(path))
    assert main(rebuild[1:]) == 0
    rows = pd.read_csv(folder / "leaderboards" / "toy.csv").set_index("method")
    assert dict(rows["origin"]) == {"stl": "own", "ls": "own", "lossprop": "verified"}
    (folder / "lossprop.py").write_text((folder / "lossprop.py").read_text() + "\nMORE = 1\n")
    code_of.cache_clear()
    assert main(["verify", str(path)]) == 2
    assert "another run here: method_code" in capsys.readouterr().err
