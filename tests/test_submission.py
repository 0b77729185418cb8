"""Records handed in and run again, and a committed benchmark made again, on the toy task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mtlbench.boards.statistics import Estimate, prediction
from mtlbench.boards.submission import Manifest, digest
from mtlbench.boards.verification import compare
from mtlbench.cli import main
from mtlbench.cli.regenerate import committed
from mtlbench.errors import UsageError
from mtlbench.runs.record import read_record
from mtlbench.runs.store import Store
from tests.factories import record
from tests.toy_task import TOY, ToyTask

LR = ToyTask.info.protocols[0].lr
SPEC = {"tasks": [TOY], "methods": ["ls", "mgda"], "seeds": [0, 1], "device": "cpu"}


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of leaderboards that has been regenerated."""
    folder = tmp_path_factory.mktemp("boards")
    (folder / "specs").mkdir()
    (folder / "specs" / "toy.yaml").write_text(yaml.safe_dump(SPEC))
    assert main(["regenerate", "toy", "--folder", str(folder), "--jobs", "1"]) == 0
    return folder


@pytest.fixture
def runs(boards: Path, tmp_path: Path) -> Path:
    """Its records, as from a clean commit."""
    for path in (boards / "records").glob("*.json"):
        made = read_record(path)
        clean = made.provenance.model_copy(update={"dirty": False})
        Store(tmp_path / "runs").write(made.model_copy(update={"provenance": clean}))
    return tmp_path / "runs"


@pytest.fixture
def submitted(theirs: Path, runs: Path) -> Path:
    words = ["submit", str(runs), "--name", "toys", "--folder", str(theirs)]
    assert main(words) == 0
    return theirs / "submissions" / "toys"


@pytest.fixture(scope="module")
def bare(boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaderboard without MGDA: the reference, the baseline, their tables."""
    folder = tmp_path_factory.mktemp("bare")
    for method in ("stl", "ls"):
        for path in (boards / "records").glob(f"toy-mini-{method}-*.json"):
            Store(folder / "records").write(read_record(path))
    shutil.copytree(boards / "specs", folder / "specs")
    assert main(["leaderboard", str(folder / "records"), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def theirs(bare: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bare, tmp_path / "theirs")


def check(folder: Path, boards: Path) -> int:
    return main(["leaderboard", str(folder), "--out", str(boards), "--check"])


# ------------------------------------------------------------------------------------ regenerate
def test_regenerating_makes_runs_tables_picture_and_page(boards: Path) -> None:
    made = sorted(path.name for path in boards.iterdir())
    tables = [f"toy{ending}.csv" for ending in ("", "_pairs", "_seeds", "_standings")]
    assert made == sorted(["index.html", "records", "specs", "toy.svg", *tables])
    assert len(list((boards / "records").glob("*.json"))) == 6  # the reference comes with it
    assert check(boards / "records", boards) == 0


def test_only_what_is_missing_is_made_again(
    boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "boards"
    shutil.copytree(boards, folder)
    words = ["regenerate", "toy", "--folder", str(folder), "--jobs", "1"]
    gone = next((folder / "records").glob("toy-mini-mgda-*-s1-*.json"))
    before = gone.read_bytes()
    gone.unlink()
    (folder / "toy.csv").unlink()
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"missing: {gone.stem}\n1 of 6 runs to make\n"
    assert not (folder / "toy.csv").exists()

    assert main(words) == 0
    assert "6 runs, 5 of them done before" in " ".join(capsys.readouterr().out.split())
    assert read_record_numbers(gone) == json.loads(before)["phases"][0]["last"]
    assert check(folder / "records", folder) == 0


def test_a_tuned_benchmark_is_tuned_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = {"seeds": [7], "trials": 2, "lr": [1, 0.5]}
    content = {**SPEC, "methods": ["ls"], "seeds": [0], "epochs": 1, "tune": tune}
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "toy.yaml").write_text(yaml.safe_dump(content))
    words = ["regenerate", "toy", "--folder", str(tmp_path), "--jobs", "1"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 trials to make" in said
    assert "2 of 2 runs to make" in said
    assert main(words) == 0
    assert "Chosen by one seed each" in capsys.readouterr().out
    store = Store(tmp_path / "records")
    assert {record.provenance.tuning.trials for record in store if record.provenance.tuning} == {2}
    assert (len(list(store)), len(list(store.trials))) == (2, 4)


def read_record_numbers(path: Path) -> object:
    return json.loads(path.read_text())["phases"][0]["last"]


def test_a_benchmark_without_a_specification_is_named(boards: Path) -> None:
    with pytest.raises(UsageError, match=r"digits\.yaml; there are: toy"):
        committed("digits", boards)


# ------------------------------------------------------------------------------------ submit
def test_a_submission_is_packed_and_accepted(
    submitted: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(submitted)
    assert (manifest.name, len(manifest.records)) == ("toys", 6)
    capsys.readouterr()
    assert check(submitted, theirs) == 0
    said = capsys.readouterr().out
    assert said == f"{submitted}: 6 records of toys, submitted; 0 of them verified\n"
    assert main(["leaderboard", str(submitted), "--format", "json"]) == 0  # it is a folder of runs


def edit(folder: Path, method: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the first record of a method, or the one of a name, where it lies."""
    path = min(folder.glob(method if "." in method else f"toy-mini-{method}-*.json"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content) + "\n")
    return path


def test_a_tampered_record_is_named(
    submitted: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edit(submitted, "mgda", lambda content: content.update(step_ms=0.001))
    assert check(submitted, theirs) == 1
    assert f"{path.name}: was changed after it was packed" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 2
    assert "is not the record that was packed" in capsys.readouterr().err
    # Nothing of it gets into a table, and this is said.
    assert check(theirs / "records", theirs) == 1
    assert f"left out: {submitted}: {path.name}: was changed" in capsys.readouterr().err
    path.unlink()
    shutil.copyfile(min(submitted.glob("*ls*.json")), submitted / "more.json")
    assert check(submitted, theirs) == 1
    said = capsys.readouterr().out
    assert f"{path.name}: is in the manifest, and missing" in said
    assert "more.json: is in no manifest" in said
    assert "with none lacks the seeds 0\n" in said
    assert "more.json: its identity is that of toy-mini-ls-" in said


def score(content: dict[str, Any], value: float) -> None:
    content["phases"][0]["selected"]["test"]["metrics"]["kind_accuracy"] = value


def unselected(content: dict[str, Any]) -> None:
    (phase,) = content["phases"]
    chosen = phase["selected_epoch"]
    other = (chosen + 1) % len(phase["epochs"])
    phase["epochs"][other]["selection_score"] = phase["epochs"][chosen]["selection_score"] + 1


UNFIT: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: c["provenance"].update(dirty=True), "made from changed files"),
    (lambda c: c["identity"].update(epochs=9), "it was renamed or edited"),
    (lambda c: c["identity"].update(epochs=9), "epochs is 9; the specification's is 3"),
    (lambda c: score(c, 120.0), "kind_accuracy is 120, and has to be from 0 to 100"),
    (lambda c: score(c, float("nan")), "kind_accuracy is nan"),
    (lambda c: c.update(step_ms=-1), "step_ms is -1.0, and has to be greater than 0"),
    (lambda c: c["provenance"].update(commit="", source=""), "neither a commit nor the hash"),
    (lambda c: c["metrics"][1].update(higher_is_better=True), "are not those that the task"),
    (lambda c: c.update(role="reference"), "is no reference: the specification's rows"),
    (lambda c: c["phases"][0].update(selected_epoch=9), "has 3 of 3 epochs, or selects none"),
    (lambda c: unselected(c), "selects another epoch than the best one on validation"),
    (
        lambda c: c["phases"][0]["selected"]["val"]["metrics"].update(level_mse=0.0),
        "validation scores are not those of the epoch",
    ),
    (
        lambda c: c["provenance"].update(tuning={"trials": 9, "seeds": [7], "records": []}),
        "was chosen by 9 trials, and the specification tunes nothing",
    ),
    (lambda c: c.update(status="failed", phases=[], reason="no luck"), "failed: no luck"),
    (lambda c: c.update(schema_version=0), "is of schema version 0"),
]


@pytest.mark.parametrize(("change", "message"), UNFIT)
def test_unfit_records_are_not_packed(
    change: Callable[[dict[str, Any]], object],
    message: str,
    runs: Path,
    theirs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(runs, "mgda", change)
    out = runs.parent / "unfit"
    words = ["submit", str(runs), "--name", "x", "--out", str(out)]
    assert main([*words, "--folder", str(theirs)]) == 1
    assert message in capsys.readouterr().out
    assert not out.exists()


def test_whole_rows_with_their_reference_are_wanted(
    runs: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in runs.glob("toy-mini-stl-*.json"):
        path.unlink()
    words = ["submit", str(runs), "--name", "x", "--out", str(runs.parent / "unfit")]
    assert main([*words, "--folder", str(theirs)]) == 1
    assert "toy: there is no reference" in capsys.readouterr().out
    assert main([*words, "--folder", str(runs)]) == 1
    assert "there is no specification" in capsys.readouterr().out
    two = SPEC | {"tasks": [TOY, "multimnist"]}
    (theirs / "specs" / "toy.yaml").write_text(yaml.safe_dump(two))
    assert main([*words, "--folder", str(theirs)]) == 1
    assert "its specification is of multimnist, too" in capsys.readouterr().out


def test_what_the_leaderboard_has_is_left_out(
    runs: Path, boards: Path, submitted: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(runs, "mgda", lambda content: score(content, 1.0))
    assert main(["submit", str(runs), "--name", "x", "--folder", str(boards)]) == 0
    said = capsys.readouterr()
    assert said.err.count("the leaderboard has that run, with the same numbers") == 1
    assert said.err.count("the leaderboard has that run, with other numbers") == 1
    assert set(Manifest.read(boards / "submissions" / "x").records) == {
        path.name for path in runs.glob("*.json") if "mgda" not in path.name
    }
    shutil.rmtree(boards / "submissions")
    # A row is there once, of whomever.
    assert check(submitted, boards) == 1
    assert "a row is there once: leave it out" in capsys.readouterr().out
    shutil.copytree(submitted, submitted.with_name("twice"))
    assert main(["leaderboard", str(theirs / "records"), "--out", str(theirs)]) == 1
    assert "the same run is in submissions/toys" in capsys.readouterr().err
    assert main(["submit", str(runs), "--name", "../x", "--folder", str(theirs)]) == 2


# ------------------------------------------------------------------------------------ the table
def test_a_submitted_row_is_in_the_table_and_marked(
    submitted: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline that it came with lends its step times and is no row."""
    times = {"stl": 70.0, "ls": 10.0, "mgda": 30.0}
    for path in submitted.glob("*.json"):
        edit(submitted, path.name, lambda c: of_another_machine(c, times[c["identity"]["method"]]))
    repack(submitted)
    words = ["leaderboard", str(theirs / "records"), "--out", str(theirs)]
    assert check(theirs / "records", theirs) == 1
    assert "toy.csv: line 3 has" in capsys.readouterr().out
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Handed in by others;" in said
    assert "MGDA with none (0 of 2 runs)" in said
    assert "another CPU" in said
    rows = pd.read_csv(theirs / "toy.csv").set_index("method")
    assert dict(rows["origin"]) == {"stl": "own", "ls": "own", "mgda": "submitted"}
    assert rows["step_ratio"].to_dict() == pytest.approx(
        {"stl": rows.loc["stl", "step_ratio"], "ls": 1.0, "mgda": 3.0}
    )
    pairs = pd.read_csv(theirs / "toy_pairs.csv")
    assert list(pairs["time_ratio"]) == [3.0]  # over the baseline's, each on its own machine
    assert "| submitted |" in formatted(theirs, "markdown", capsys)

    for path in sorted(submitted.glob("toy-mini-mgda-*.json")):
        assert main(["verify", str(path)]) == 0
    assert main(words) == 0
    assert pd.read_csv(theirs / "toy.csv").set_index("method").loc["mgda", "origin"] == "verified"
    assert check(theirs / "records", theirs) == 0
    edit(submitted, "mgda", lambda content: content.update(step_ms=1e3))
    repack(submitted)
    assert check(submitted, theirs) == 1
    assert "is not what was verified; run mtlbench verify again" in capsys.readouterr().out


def of_another_machine(content: dict[str, Any], step_ms: float) -> None:
    content["provenance"].update(device="another CPU", threads=1)
    content["step_ms"] = step_ms


def repack(folder: Path) -> None:
    """As somebody would who edits the manifest, too."""
    manifest = Manifest.read(folder)
    records = {name: digest(folder / name) for name in manifest.records}
    manifest.model_copy(update={"records": records}).write(folder)


def formatted(boards: Path, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["leaderboard", str(boards / "records"), "--format", form]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------ tuning
def test_every_row_has_the_same_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune = {"seeds": [7], "trials": 2, "lr": [1, 0.5]}
    content = {**SPEC, "methods": ["ls"], "seeds": [0], "epochs": 1, "tune": tune}
    theirs, runs = tmp_path / "theirs", tmp_path / "runs"
    (theirs / "specs").mkdir(parents=True)
    spec = theirs / "specs" / "toy.yaml"
    spec.write_text(yaml.safe_dump(content))
    assert main(["sweep", str(spec), "--out", str(runs), "--engine", "here"]) == 0
    made = [read_record(path) for path in sorted(runs.glob("*.json"))]
    tunings = [record.provenance.tuning for record in made]
    assert {(t.trials, t.seeds, len(t.records)) for t in tunings if t} == {(2, (7,), 2)}
    assert {record.provenance.jobs for record in made} == {1}
    for record_made in made:
        clean = record_made.provenance.model_copy(update={"dirty": False})
        Store(runs).write(record_made.model_copy(update={"provenance": clean}))
    assert main(["submit", str(runs), "--name", "x", "--folder", str(theirs)]) == 0
    packed = theirs / "submissions" / "x"
    assert len(list((packed / "trials").glob("*.json"))) == 4
    assert check(packed, theirs) == 0
    capsys.readouterr()

    (path,) = (each for each in packed.glob("toy-mini-ls-*-s0-*.json"))
    whole = path.read_text()
    unequal: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda p: p.update(tuning=None), "does not say how it was tuned; every row has 2 trials"),
        (lambda p: p["tuning"].update(trials=9), "had 9 trials on each of the seeds 7; every row"),
        (lambda p: p["tuning"]["records"].pop(), "1 of the records of its 2 trials are there"),
    ]
    for change, message in unequal:
        edit(packed, path.name, lambda c, change=change: change(c["provenance"]))  # type: ignore[misc]
        assert check(packed, theirs) == 1
        assert message in capsys.readouterr().out
        path.write_text(whole)

    mixed = [t.records[0] for t in tunings if t]
    edit(packed, path.name, lambda c: c["provenance"]["tuning"].update(records=mixed))
    assert check(packed, theirs) == 1
    assert "is no trial of it" in capsys.readouterr().out
    path.write_text(whole)
    worse = 0.5 * LR if read_record(path).identity.lr is None else None
    edit(packed, path.name, lambda c: c["identity"].update(lr=worse))
    assert check(packed, theirs) == 1
    assert "other options were better in its trials" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ verify
def test_a_record_is_verified_and_its_manifest_says_so(
    submitted: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = min(submitted.glob("toy-mini-mgda-*.json"))
    assert main(["verify", str(path)]) == 0
    assert f"{path.name}: bit-equal" in capsys.readouterr().out
    (entry,) = Manifest.read(submitted).verified.items()
    assert (entry[0], entry[1].outcome, entry[1].sha256) == (path.name, "bit-equal", digest(path))
    assert check(submitted, theirs) == 0
    assert "1 of them verified" in capsys.readouterr().out


def test_other_numbers_are_found_out(submitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = edit(submitted, "mgda", lambda content: score(content, 1.0))
    repack(submitted)
    assert main(["verify", str(path)]) == 1
    assert "different (its metrics are worse by +" in capsys.readouterr().out
    assert Manifest.read(submitted).verified == {}


def test_a_command_that_is_another_run_is_refused(
    submitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edit(submitted, "mgda", lambda c: c["identity"].update(epochs=9))
    repack(submitted)
    assert main(["verify", str(path)]) == 2
    assert "another run here: epochs is 3 here, 9 in the record" in capsys.readouterr().err


def test_what_seeds_leave_open_is_tolerated() -> None:
    row = [record(80.0 + wobble, 2.0, seed=s) for s, wobble in enumerate((0.0, 1.0, -1.0))]
    tolerance = prediction(Estimate.of([0.0, -100 / 80 / 2, 100 / 80 / 2]))
    assert tolerance == pytest.approx(4.303 * 2**0.5 * 0.625, rel=1e-3)
    handed_in = [record(accuracy, 2.0) for accuracy in (80.0, 80.1, 75.0, 60.0)]
    found = [compare(each, row[0], [each, *row[1:]]) for each in handed_in]
    assert [f.outcome for f in found] == [
        "bit-equal",
        "within noise",
        "within noise",
        "different",
    ]
    assert [f.change for f in found] == pytest.approx([0, -0.0625, 3.125, 12.5])
    # An invented record cannot widen what is tolerated of it.
    assert [f.tolerance for f in found] == pytest.approx([tolerance] * 4)
    alone = [compare(each, row[0], [each, row[1]]) for each in handed_in]
    assert [f.tolerance for f in alone] == [1.0] * 4
    assert alone[2].outcome == "different"


def test_a_score_of_zero_is_no_obstacle() -> None:
    row = [record(accuracy, 2.0, seed=s) for s, accuracy in enumerate((0.0, 2.0, 1.0))]
    (found, wrong) = (compare(each, row[0], row) for each in (record(1.0, 2.0), record(30.0, 2.0)))
    assert (found.outcome, found.change) == ("within noise", -50)
    assert wrong.outcome == "different"
    nothing = [record(0.0, 2.0, seed=s) for s in range(3)]
    assert compare(record(0.0, 2.1), nothing[0], nothing).change == pytest.approx(2.5)
    assert compare(record(1.0, 2.0), nothing[0], nothing).outcome == "different"
