"""The command line: what it prints, writes and returns, and how it refuses what cannot be done."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd
import pytest
from rich.console import Console

from mtlbench.cli import main
from mtlbench.cli.app import repeated
from mtlbench.cli.pace import Pace, duration
from mtlbench.errors import DataError, UsageError
from mtlbench.registry import METHODS, SHARPNESS, TASKS, Registry, declared_options
from mtlbench.runs.store import Store
from tests.toy_task import BROKEN, EPOCHS, TOY

METHOD = ["--method", "ls"]
CELLS = [*METHOD, "stl", "mgda", "--sharpness", "none", "--seed", "0", "1"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def mtlbench(capsys: pytest.CaptureFixture[str]) -> Mtlbench:
    return Mtlbench(capsys)


class Mtlbench:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Ended:
        code = main([str(word) for word in words])
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small sweep, and what its command printed."""
    folder = tmp_path_factory.mktemp("sweep") / "records"
    with redirect_stdout(io.StringIO()) as out:
        assert main(["run", TOY, *CELLS, "--out", str(folder), "--jobs", "2"]) == 0
    return folder, out.getvalue()


def plain(text: str) -> str:
    """Without the frames and line breaks of a panel."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


# ------------------------------------------------------------------------------------ bad input
NEEDS_NO_FILE: list[tuple[Sequence[str], Sequence[str]]] = [
    (["run", "nosuch", *METHOD], ["unknown task 'nosuch'", *TASKS.names()]),
    (["run", TOY, "--method", "nosuch"], ["unknown method 'nosuch'", *METHODS.names()]),
    (["run", TOY, "--method", "ls", "nosuch"], ["unknown method 'nosuch'"]),
    (
        ["run", TOY, *METHOD, "--sharpness", "nosuch"],
        ["unknown sharpness wrapper 'nosuch'", *SHARPNESS.names()],
    ),
    (["run", "nosuch.mod:Task", *METHOD], ["'nosuch.mod:Task' cannot be imported"]),
    (["run", f"{TOY}:size=3", *METHOD], ["no option 'size'; valid: fault, at, once"]),
    (["run", TOY, "--method", "cagrad:k=1"], ["method 'cagrad' has no option 'k'; valid: c"]),
    (["run", TOY, "--method", "cagrad:c"], ["'cagrad:c'", "option=value"]),
    (["run", TOY, "--method", "ls:c=1"], ["method 'ls' has no option 'c'; valid: it has none"]),
    (["run", TOY, "--method", "cagrad:c=much"], ["'cagrad': option c=much", "valid number"]),
    (["run", TOY, "--method", "famo:lr=0"], ["'famo': option lr=0", "greater than 0"]),
    (
        ["run", TOY, *METHOD, "--sharpness", "samo:rho=-1"],
        ["'samo': option rho=-1", "greater than 0"],
    ),
    (
        ["run", TOY, *METHOD, "--sharpness", "samo:probe=x"],
        ["'samo': option probe=x", "'train' or 'eval'"],
    ),
    (["run", f"{TOY}:at=-1", *METHOD], ["option at=-1", "greater than or equal to 0"]),
    (["run", TOY, *METHOD, "--protocol", "maxi"], ["no protocol 'maxi'; valid: mini, paper"]),
    (["run", TOY, *METHOD, "--arch", "deep"], ["no architecture 'deep'; valid: linear, wide"]),
    (["run", TOY, *METHOD, "--epochs", "0"], ["'--epochs'", "greater than or equal to 1"]),
    (["run", TOY, *METHOD, "--seed", "-1"], ["'--seed'", "greater than or equal to 0"]),
    (["run", TOY, *METHOD, "--device", "nosuch"], ["device 'nosuch' is not available"]),
    (["run", TOY, *METHOD, "--seed", "0", "x"], ["'--seed'", "valid integer"]),
    (["run", TOY, *METHOD, "--jobs", "0"], ["'--jobs'"]),
    (["run", TOY], ["Missing option '--method'"]),
    (["run", *METHOD], ["Missing argument", "task"]),
    (["nosuch"], ["No such command 'nosuch'"]),
    (["list", "nosuch"], ["'nosuch' is not one of 'tasks', 'methods', 'sharpness'"]),
    (["list", "fairgrd"], ["nor the name of one of these; did you mean 'fairgrad'?"]),
    (["run", "multimnst", *METHOD], ["did you mean 'multimnist'?"]),
    (["run", TOY, "--method", "LS"], ["unknown method 'LS'", "did you mean 'ls'?"]),
    (["run", TOY, *METHOD, "--sharpness", "F-MTL"], ["did you mean 'fmtl'?"]),
    (["run", TOY, "--method", "ls,cagrad"], ["several are separated by spaces: ls cagrad"]),
    (["run", TOY, "--method", "fairgrad:Alpha=2"], ["did you mean 'alpha'?"]),
    (["run", "tests.toy_task:ToyTsk", *METHOD], ["'ToyTsk'; did you mean 'ToyTask'?"]),
    (["run", "tests/toy_task.py:ToyTask", *METHOD], ["current folder: 'tests.toy_task:ToyTask'"]),
    (["run", "toy_task.py:ToyTask", *METHOD], ["current folder: 'toy_task:ToyTask'"]),
    (["check", "Fair-Grad"], ["did you mean 'fairgrad'?"]),
]


@pytest.mark.parametrize(("words", "said"), NEEDS_NO_FILE, ids=lambda words: " ".join(words))
def test_a_bad_request_ends_with_one_readable_message(
    words: Sequence[str], said: Sequence[str], mtlbench: Mtlbench, tmp_path: Path
) -> None:
    out = ["--out", tmp_path / "out"] if words[0] == "run" else []
    refused(mtlbench(*words, *out), said)
    assert list(tmp_path.iterdir()) == []


def refused(ended: Ended, said: Sequence[str]) -> None:
    message = plain(ended.err)
    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in message
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize("task", ["multimnist", "qm9"])
@pytest.mark.parametrize("state", ["missing", "incomplete", "corrupt"])
def test_bad_data_is_named(task: str, state: str, mtlbench: Mtlbench, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    file = folder / {"multimnist": "MNIST/raw/train-images-idx3-ubyte", "qm9": "qm9.npz"}[task]
    said = [str(folder) if state == "missing" or task == "qm9" else str(file)]
    if state != "missing":
        file.parent.mkdir(parents=True)
    if state == "corrupt":
        file.write_bytes(b"no such data")
        said.append("expected")
    incomplete = {"multimnist": "is missing", "qm9": "holds no QM9: expected one of qm9.npz"}[task]
    reason = {"missing": "does not exist", "incomplete": incomplete, "corrupt": "is corrupt"}
    ended = mtlbench("run", task, *METHOD, "--data", folder, "--out", tmp_path / "out")
    refused(ended, [*said, reason[state], "PATH"])


@pytest.mark.parametrize("command", [["run", TOY, *METHOD], ["quickstart"]], ids=["run", "quick"])
def test_an_unwritable_folder_is_refused_before_training(
    command: list[str], mtlbench: Mtlbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail("training began")

    monkeypatch.setattr("mtlbench.runs.sweep.sweep", train)
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "out"
    refused(mtlbench(*command, "--out", folder), [f"output folder {folder}", "cannot be written"])


def test_bad_folders_of_records(mtlbench: Mtlbench, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    refused(mtlbench("leaderboard", nowhere), [f"no folder of records at {nowhere}"])
    refused(mtlbench("leaderboard", tmp_path), [f"no record (*.json) in {tmp_path}"])
    (tmp_path / "x.json").write_text("{")
    only = [
        f"left out: {tmp_path / 'x.json'} is not a run record: cut off, or no JSON (EOF",
        "no record",
    ]
    refused(mtlbench("leaderboard", tmp_path), only)


WITHOUT_TORCH = [
    (["--version"], 0),
    (["--help"], 0),
    (["list", "--plain"], 0),
    (["run", "multimnist", "--method", "LS", "--out", "o"], 2),
    (["run", "multimnst", "--method", "ls", "--out", "o"], 2),
    (["run", "mein:Mine", "--method", "ls", "--out", "o"], 2),
    (["run", "multimnist", "--method", "cagrad:c", "--out", "o"], 2),
    (["list", "fairgrd"], 2),
]


def test_what_needs_no_torch_does_without(tmp_path: Path) -> None:
    code = f"""
import sys
from mtlbench.cli import main
from mtlbench.cli.app import repeated
from mtlbench.cli.pace import Pace, duration
for words, code in {WITHOUT_TORCH!r}:
    assert main(words) == code, words
    assert not {{"torch", "pandas", "numpy"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_the_version(mtlbench: Mtlbench) -> None:
    assert mtlbench("--version") == (0, f"mtlbench {version('mtlbench')}\n", "")


@pytest.mark.parametrize(
    ("words", "spread"),
    [
        ("--seed 0 1 2", "--seed 0 --seed 1 --seed 2"),
        ("--seed=0 1", "--seed 0 --seed 1"),
        ("--method=ls cagrad:c=0.4 --jobs 2", "--method ls --method cagrad:c=0.4 --jobs 2"),
        ("--seed -1", "--seed -1"),
        ("--k 2 5 --width=1 2", "--k 2 --k 5 --width 1 --width 2"),
        ("--data x --plain", "--data x --plain"),
    ],
)
def test_options_that_take_several_values(words: str, spread: str) -> None:
    assert repeated(words.split()) == spread.split()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("words", [["--help"], ["nosuch"]])
def test_any_encoding_will_do(encoding: str, words: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-m", "mtlbench", *words], env=environment, capture_output=True
    )
    assert ended.returncode == 2 * (words == ["nosuch"])
    assert b"Error" not in ended.stdout + ended.stderr.replace(b" Error ", b"")


@pytest.mark.parametrize("words", ["list --plain", "--help"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    command = f"{sys.executable} -m mtlbench {words}"
    with subprocess.Popen(
        shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        assert writer.stderr
        writer.stdout.close()
        assert writer.stderr.read() == b""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown task"):
        main(["run", "nosuch", *METHOD, "--out", str(tmp_path), "--debug"])
    with pytest.raises(DataError):
        main(["--debug", "run", "qm9", *METHOD, "--data", str(tmp_path), "--out", str(tmp_path)])


def test_help_is_no_error(mtlbench: Mtlbench) -> None:
    ended = mtlbench("run", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "--sharpness" in ended.out
    assert "--debug" in mtlbench("--help").out


# ------------------------------------------------------------------------------------ list
def test_plain_lists(mtlbench: Mtlbench) -> None:
    kinds: dict[str, Registry[Any]] = {"tasks": TASKS, "methods": METHODS, "sharpness": SHARPNESS}
    for kind, registry in kinds.items():
        assert mtlbench("list", kind, "--plain") == (0, "\n".join(registry.names()) + "\n", "")
    everything = [name for registry in kinds.values() for name in registry.names()]
    assert mtlbench("list", "--plain").out.split() == everything


def test_lists_with_titles(mtlbench: Mtlbench) -> None:
    ended = mtlbench("list")
    assert ended.code == 0
    for name in ("multimnist", "FAMO", "SAMO"):
        assert name in ended.out


def test_a_long_list_has_what_tasks_declare(mtlbench: Mtlbench) -> None:
    ended = mtlbench("list", "tasks", "--long")
    assert ended.code == 0
    for name in TASKS.names():
        info = TASKS.get(name).info
        for text in (info.title, info.metrics[0].name, info.protocols[-1].name, info.instead):
            assert text.split(",")[0] in ended.out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "fairgrad",
            [
                "FairGrad, 2024",
                "https://arxiv.org/abs/2402.15638",
                "alpha=2.0 (number > 0): fairness",
                "solver=newton (newton or cvxpy)",
                "1 forward and 2 backward for 2 tasks, 1 forward and 10 backward for 10",
                "stationarity",
            ],
        ),
        ("samo", ["alpha=0.5 (number >= 0 and <= 1)", "points=per-task (per-task or by-sign)"]),
        ("samo", ["7 forward and 3 backward for 2 tasks"]),
        ("multimnist", ["left_accuracy", "mini v2"]),
        (TOY, ["fault=null (", "at=1 (integer >= 0)"]),
    ],
)
def test_all_that_one_declares(name: str, said: list[str], mtlbench: Mtlbench) -> None:
    ended = mtlbench("list", name)
    assert ended.code == 0
    assert [part for part in said if part not in plain(ended.out)] == [], ended.out


@pytest.mark.parametrize(("kind", "registry"), [("methods", METHODS), ("sharpness", SHARPNESS)])
def test_a_long_list_has_every_option(
    kind: str, registry: Registry[Any], mtlbench: Mtlbench
) -> None:
    ended = mtlbench("list", kind, "--long")
    assert (ended.code, ended.err) == (0, "")
    for name in registry.names():
        cls: Any = registry.get(name)
        for option in declared_options(cls).model_fields:
            assert f" {option}=" in ended.out
    assert "(any)" not in ended.out


# ------------------------------------------------------------------------------------ run
def test_a_sweep_prints_its_runs_and_a_table(done: tuple[Path, str]) -> None:
    folder, out = done
    assert out.startswith("6 runs, 0 of them done before")
    assert f"6 runs to do, {2 * (1 + 3 + 1) * EPOCHS} epochs in all, 2 at a time\n" in out
    assert len(re.findall(r"^ok (ls|stl|mgda) x none, seed [01]: ", out, re.MULTILINE)) == 6
    assert {record.status for record in Store(folder)} == {"ok"}
    assert "36 made-up samples" in out
    assert "MGDA" in out


def test_no_progress_bar_without_a_terminal(done: tuple[Path, str]) -> None:
    assert not re.search("[\r\x1b━]|epochs +[0-9]", done[1])


def test_a_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "mtlbench.cli.terminal.console", Console(file=screen, force_terminal=True, width=120)
    )
    assert main(["run", TOY, *METHOD, "--out", str(tmp_path)]) == 0
    assert "1/1 done" in screen.getvalue()


def test_finished_runs_are_not_run_again(
    done: tuple[Path, str], mtlbench: Mtlbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(
        "mtlbench.runs.sweep.sweep", lambda runs, *args, **kwargs: started.extend(runs)
    )
    ended = mtlbench("run", TOY, *CELLS, "2", "--out", done[0])
    assert ended.code == 0
    assert plain(ended.out).startswith("9 runs, 6 of them done before")
    assert len(started) == 3


def test_a_failing_run_is_reported(mtlbench: Mtlbench, tmp_path: Path) -> None:
    ended = mtlbench("run", f"{TOY}:fault=raise", *METHOD, "--out", tmp_path)
    assert ended.code == 1
    assert f"failed ls x none, seed 0: RuntimeError: {BROKEN}\n" in ended.out
    said = "1 runs failed; with --retry failed the same command tries them again"
    assert said in plain(ended.out)


# ------------------------------------------------------------------------------------ leaderboard
def test_a_leaderboard_is_written_and_checked(
    done: tuple[Path, str], mtlbench: Mtlbench, tmp_path: Path
) -> None:
    words = ["leaderboard", done[0], "--out", tmp_path]
    ended = mtlbench(*words)
    assert ended.code == 0
    assert "Δm%" in ended.out
    names = ["toy.csv", "toy_pairs.csv", "toy_seeds.csv", "toy_standings.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "Of 1 pairs, paired by seed (2 seeds)" in plain(ended.out)
    rows = pd.read_csv(tmp_path / "toy.csv")
    assert set(rows["method"]) == {"ls", "stl", "mgda"}
    assert set(rows["status"]) == {"ok"}

    assert mtlbench(*words, "--check").code == 0

    csv = tmp_path / "toy.csv"
    csv.write_text(csv.read_text().replace("mgda", "gmda", 1))
    tampered = mtlbench(*words, "--check")
    assert tampered.code == 1
    assert "toy.csv: line" in tampered.out
    assert "gmda" in tampered.out
    assert "gmda" in csv.read_text()

    csv.unlink()
    missing = mtlbench(*words, "--check")
    assert (missing.code, missing.out) == (1, "toy.csv: missing\n")
    assert not csv.exists()


def test_what_is_no_record_is_named_and_the_table_is_made(
    done: tuple[Path, str], mtlbench: Mtlbench, tmp_path: Path
) -> None:
    folder, out = tmp_path / "records", tmp_path / "out"
    shutil.copytree(done[0], folder)
    (folder / "config.json").write_text('{"lr": 0.1}')
    ended = mtlbench("leaderboard", folder, "--out", out)
    assert ended.code == 1
    assert f"left out: {folder / 'config.json'} is not a run record" in ended.err
    assert "MGDA" in ended.out
    assert len(pd.read_csv(out / "toy.csv")) == 3
    assert mtlbench("leaderboard", folder, "--out", out, "--check").code == 1


def test_tables_are_written_before_they_are_printed(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> NoReturn:
        raise BrokenPipeError

    monkeypatch.setattr("mtlbench.cli.leaderboard.print_boards", broken)
    with suppress(BrokenPipeError, SystemExit):
        main(["leaderboard", str(done[0]), "--out", str(tmp_path)])
    names = ("toy.csv", "toy_pairs.csv", "toy_seeds.csv", "toy_standings.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == list(names)


# ------------------------------------------------------------------------------------ time to go
def test_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 60.0, 60.0, 60.0, 60.0])
    monkeypatch.setattr("mtlbench.cli.pace.time.monotonic", lambda: next(now))
    pace = Pace(10)
    assert pace.to_go == ""
    pace.advance(2)
    assert pace.to_go == "; about 4 min to go"
    pace.drop(5)
    assert pace.to_go == "; about 2 min to go"
    pace.drop(3)
    assert pace.to_go == ""
    assert [duration(s) for s in (41.2, 700, 9000)] == ["41 s", "12 min", "2.5 h"]


def test_a_benchmark_says_how_far_it_is(mtlbench: Mtlbench) -> None:
    words = ["--case", "mgda K=2*", "--rounds", 1, "--seconds", 0]
    ended = mtlbench("bench", "solvers", *words)
    assert ended.code == 0
    lines = ended.err.splitlines()
    n = len(lines) - 1
    assert lines[0] == f"{n} cases of 1 rounds or 0 s, whichever is longer"
    assert n > 1
    assert [line.partition(" ")[0] for line in lines[1:]] == [f"{i}/{n}" for i in range(1, n + 1)]


# ------------------------------------------------------------------------------------ quickstart
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart(mtlbench: Mtlbench, tmp_path: Path) -> None:
    ended = mtlbench("quickstart", "--epochs", "1", "--out", tmp_path)
    assert ended.code == 0, ended
    assert {p.name for p in tmp_path.iterdir()} == {
        "records",
        "multimnist.csv",
        "multimnist_pairs.csv",
        "multimnist_seeds.csv",
        "multimnist_standings.csv",
        "multimnist.svg",
    }
    rows = pd.read_csv(tmp_path / "multimnist.csv")
    assert len(rows) == 1 + 3 * 4
    assert set(rows["status"]) == {"ok"}
    assert rows["delta_m"].notna().all()
