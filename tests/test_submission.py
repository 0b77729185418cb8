"""Records handed in and run again, and a committed benchmark made again, on the toy task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mtlbench.boards.statistics import Estimate, prediction
from mtlbench.boards.submission import Manifest
from mtlbench.boards.verification import compare
from mtlbench.cli import main
from mtlbench.cli.regenerate import committed
from mtlbench.errors import UsageError
from mtlbench.runs.record import read_record
from mtlbench.runs.store import Store
from tests.factories import record
from tests.toy_task import TOY

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
def submitted(boards: Path, runs: Path, tmp_path: Path) -> Path:
    words = ["submit", str(runs), "--name", "toys", "--out", str(tmp_path / "toys")]
    assert main([*words, "--specs", str(boards / "specs")]) == 0
    return tmp_path / "toys"


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


def read_record_numbers(path: Path) -> object:
    return json.loads(path.read_text())["phases"][0]["last"]


def test_a_benchmark_without_a_specification_is_named(boards: Path) -> None:
    with pytest.raises(UsageError, match=r"digits\.yaml; there are: toy"):
        committed("digits", boards)


# ------------------------------------------------------------------------------------ submit
def test_a_submission_is_packed_and_accepted(
    submitted: Path, boards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(submitted)
    assert (manifest.name, len(manifest.records)) == ("toys", 6)
    capsys.readouterr()
    assert check(submitted, boards) == 0
    said = capsys.readouterr().out
    assert said == f"{submitted}: 6 records of toys, submitted; 0 of them verified\n"
    assert main(["leaderboard", str(submitted), "--format", "json"]) == 0  # it is a folder of runs


def edit(folder: Path, method: str, change: Callable[[dict[str, object]], object]) -> Path:
    """Change the first record of a method where it lies."""
    path = min(folder.glob(f"toy-mini-{method}-*.json"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content) + "\n")
    return path


def test_a_tampered_record_is_named(
    submitted: Path, boards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edit(submitted, "mgda", lambda content: content.update(step_ms=0.001))
    assert check(submitted, boards) == 1
    assert f"{path.name}: was changed after it was packed" in capsys.readouterr().out
    path.unlink()
    shutil.copyfile(min(submitted.glob("*ls*.json")), submitted / "more.json")
    assert check(submitted, boards) == 1
    said = capsys.readouterr().out
    assert f"{path.name}: is in the manifest, and missing" in said
    assert "more.json: is in no manifest" in said
    assert "with none lacks the seeds 0\n" in said
    assert "more.json: its identity is that of toy-mini-ls-" in said


def score(content: dict[str, object], value: float) -> None:
    content["phases"][0]["selected"]["test"]["metrics"]["kind_accuracy"] = value  # type: ignore[index]


UNFIT: list[tuple[Callable[[dict[str, object]], object], str]] = [
    (lambda c: c["provenance"].update(dirty=True), "made from changed files"),  # type: ignore[attr-defined]
    (lambda c: c["identity"].update(epochs=9), "it was renamed or edited"),  # type: ignore[attr-defined]
    (lambda c: c["identity"].update(epochs=9), "epochs is 9; the specification's is 3"),  # type: ignore[attr-defined]
    (lambda c: score(c, 120.0), "kind_accuracy is 120, and has to be from 0 to 100"),
    (lambda c: score(c, float("nan")), "kind_accuracy is nan"),
    (lambda c: c.update(status="failed", phases=[], reason="no luck"), "failed: no luck"),
    (lambda c: c.update(schema_version=0), "is of schema version 0"),
]


@pytest.mark.parametrize(("change", "message"), UNFIT)
def test_unfit_records_are_not_packed(
    change: Callable[[dict[str, object]], object],
    message: str,
    runs: Path,
    boards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(runs, "mgda", change)
    out = runs.parent / "unfit"
    words = ["submit", str(runs), "--name", "x", "--out", str(out)]
    assert main([*words, "--specs", str(boards / "specs")]) == 1
    assert message in capsys.readouterr().out
    assert not out.exists()


def test_whole_rows_with_their_reference_are_wanted(
    runs: Path, boards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in runs.glob("toy-mini-stl-*.json"):
        path.unlink()
    words = ["submit", str(runs), "--name", "x", "--out", str(runs.parent / "unfit")]
    assert main([*words, "--specs", str(boards / "specs")]) == 1
    assert "toy: there is no reference" in capsys.readouterr().out
    assert main([*words, "--specs", str(runs)]) == 1
    assert "there is no specification" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ verify
def test_a_record_is_verified_and_its_manifest_says_so(
    submitted: Path, boards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = min(submitted.glob("toy-mini-mgda-*.json"))
    assert main(["verify", str(path)]) == 0
    assert f"{path.name}: bit-equal" in capsys.readouterr().out
    assert Manifest.read(submitted).verified == {path.name: "bit-equal"}
    assert check(submitted, boards) == 0
    assert "1 of them verified" in capsys.readouterr().out


def test_other_numbers_are_found_out(submitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = edit(submitted, "mgda", lambda content: score(content, 1.0))
    assert main(["verify", str(path)]) == 1
    assert "different (its metrics are worse by +" in capsys.readouterr().out
    assert Manifest.read(submitted).verified == {}


def test_a_command_that_is_another_run_is_refused(
    submitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edit(submitted, "mgda", lambda c: c["identity"].update(epochs=9))  # type: ignore[attr-defined]
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
