"""``mtlbench data``: what it makes, what it finds wrong, and how it refuses."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mtlbench.cli import main
from mtlbench.data import standin
from mtlbench.data.standin import read_manifest
from mtlbench.interfaces import Fault
from mtlbench.registry import TASKS
from tests.started import started
from tests.toy_recipe import RECIPE, SECONDS
from tests.toy_task import TOY, ToyTask

PLAIN = "tests.test_data_cli:Plain"
SMALL = ["--n-train", "2", "--n-val", "1", "--n-test", "0", "--jobs", "1"]


class Plain(ToyTask):
    """A task that neither generates nor reads a folder."""

    recipe = None

    @classmethod
    def verify(cls, data: Path) -> Iterator[Fault]:
        return super(ToyTask, cls).verify(data)


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A generated folder."""
    assert main(["data", "make", TOY, *SMALL, "--out", str(tmp_path / "toy")]) == 0
    capsys.readouterr()
    return tmp_path / "toy"


# ------------------------------------------------------------------------------------ make
def test_make_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "toy"
    words = ["data", "make", TOY, *SMALL, "--size", "8x5", "--out", str(folder)]
    assert main(words) == 0
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.counts, manifest.size) == ({"train": 2, "val": 1, "test": 0}, (8, 5))
    assert np.load(folder / "val" / "image" / "0.npy").shape == (8, 5, 3)
    where, what, sha256 = capsys.readouterr().out.splitlines()
    assert where == str(folder)
    assert what.startswith("toy v1, 2 train, 1 val, 0 test, 8x5; ")
    assert what.endswith(" s")
    assert sha256 == f"sha256 {manifest.sha256}"

    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[2] == sha256


def test_make_fills_the_cache_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path))
    assert main(["data", "make", TOY, "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{standin.cached('toy', RECIPE)}\n")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "mtlbench.cli.terminal.console", Console(file=screen, force_terminal=True, width=120)
    )
    assert main(["data", "make", TOY, *SMALL, "--out", str(tmp_path / "toy")]) == 0
    assert "3/3" in screen.getvalue()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([PLAIN], f"task {PLAIN!r} generates no data; these do: "),
        ([TOY, "--size", "64"], "size '64' is not of the form HEIGHTxWIDTH, such as 64x128"),
        ([TOY, "--size", "0x8"], "size '0x8' is not of the form"),
        ([TOY, "--size", "8x8x8"], "size '8x8x8' is not of the form"),
        ([TOY, "--n-val", "-1"], "'--n-val'"),
        ([TOY, "--jobs", "0"], "'--jobs'"),
        (["nosuch"], "unknown task 'nosuch'"),
    ],
)
def test_bad_requests(
    words: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "make", *words, "--out", str(tmp_path / "toy")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_the_tasks_that_generate_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", PLAIN]) == 2
    named = capsys.readouterr().err.partition("these do: ")[2].strip()
    generated = [name for name in TASKS.names() if TASKS.get(name).recipe is not None]
    assert named == (", ".join(generated) or "none")


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("end", "number", "code"),
    [(os.killpg, signal.SIGINT, 130), (os.kill, signal.SIGKILL, -signal.SIGKILL)],
    ids=["ctrl-c", "killed"],
)
def test_ended_and_again(
    end: Callable[[int, int], None],
    number: int,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "toy"
    words = ["data", "make", TOY, "--n-train", "40", "--out", str(folder)]
    with started([*words, "--jobs", "2"], **{SECONDS: "0.5"}) as process:
        while process.poll() is None and not list(folder.glob("*/label/*.npy")):
            time.sleep(0.05)
        end(process.pid, number)
        output, _ = process.communicate(timeout=200)  # until every process has closed its end
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert read_manifest(folder) is None

    assert main(["data", "verify", TOY, "--data", str(folder)]) == 1
    assert "half-made" in capsys.readouterr().out
    assert main([*words, "--jobs", "1"]) == 0
    assert main(["data", "verify", TOY, "--data", str(folder)]) == 0


# ------------------------------------------------------------------------------------ verify
def test_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", TOY, "--data", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: nothing is wrong with its 7 files\n"


def test_all_that_is_wrong_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(folder / "train" / "image" / "0.npy", 100)
    np.save(folder / "train" / "label" / "1.npy", np.zeros(3))
    (folder / "val" / "label" / "0.npy").unlink()
    assert main(["data", "verify", TOY, "--data", str(folder)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"{folder}: 4 faults" in out
    for said in (
        "│ train/image/0.npy │ cannot be read",
        "│ train/label/1.npy │ has shape (3,), expected 2 axes",
        "│ val/label/0.npy │ cannot be read",
        "│ manifest.json │ sha256 of all files is ",
    ):
        assert said in out


def test_a_change_that_only_the_hash_knows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = folder / "val" / "label" / "0.npy"
    np.save(label, 1 - np.load(label))
    assert main(["data", "verify", TOY, "--data", str(folder)]) == 1
    assert "1 faults" in capsys.readouterr().out


def test_a_folder_that_was_not_generated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").unlink()
    os.truncate(folder / "val" / "label" / "0.npy", 200)
    assert main(["data", "verify", TOY, "--data", str(folder)]) == 1
    assert "val/label/0.npy" in capsys.readouterr().out


def test_what_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", PLAIN, "--data", str(tmp_path)]) == 2
    assert "task 'toy' reads no folder" in capsys.readouterr().err
    nowhere = tmp_path / "nowhere"
    assert main(["data", "verify", TOY, "--data", str(nowhere)]) == 2
    assert f"data folder {nowhere} does not exist; {ToyTask.info.source}" in capsys.readouterr().err
