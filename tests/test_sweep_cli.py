"""``mtlbench sweep``: what it says of a sweep, and how it refuses one that cannot be run."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtlbench.registry import METHODS
from mtlbench.runs.backends.here import Here
from mtlbench.runs.code import code_of
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.store import Store
from mtlbench.runs.sweep import checked, sweep
from tests.test_cli import Ended, Mtlbench, plain
from tests.toy_task import BROKEN, TOY

SPEC: dict[str, Any] = {"tasks": [TOY], "methods": ["ls", "uw"], "seeds": [0, 1], "device": "cpu"}
HERE = ("--engine", "here")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Mtlbench:
    return Mtlbench(capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def written(folder: Path, content: object) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refused(ended: Ended, *said: str) -> None:
    """One message, and none of Python's."""
    message = plain(ended.err)
    assert ended.code == 2, ended
    assert message.count("error: ") == 1 or "Error" in message
    assert "Traceback" not in message
    assert [part for part in said if part not in message] == [], message


# ------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": []}, "nothing to run: give methods, or grids"),
        ({"methods": ["ls", "ls"]}, "ls with none is in the sweep 2 times"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is there twice"),
        ({"tasks": [TOY, TOY]}, f"tasks: '{TOY}' is there twice"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, not -1"),
        ({"seeds": [2**64]}, "seed must be from 0 to 2**64 - 1"),
        ({"grids": [{"methods": ["ls"], "wrappers": ["sam"]}]}, "unknown key 'grids.0.wrappers'"),
        ({"methods": ["cagrad:c={0.1,0.2"]}, "'cagrad:c={0.1,0.2': braces do not match"),
        ({"methods": ["cagrad:c=0.1}"]}, "'cagrad:c=0.1}': braces do not match"),
        ({"methods": ["cagrad:c={{1,2},3}"]}, "braces do not match"),
        ({"methods": ["nosuch"]}, "unknown method 'nosuch'"),
        ({"sharpness": ["samo:rho={0.1,-1}"]}, "'samo': option rho=-1"),
        ({"protocol": "maxi"}, "no protocol 'maxi'; valid: mini, paper"),
        ({"data": "nowhere"}, "nowhere"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
    ],
    ids=str,
)
@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--status"]], ids=" ".join)
def test_a_bad_specification(
    change: dict[str, Any],
    said: str,
    words: list[str],
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
) -> None:
    ended = command("sweep", written(tmp_path, SPEC | change), "--out", out, *HERE, *words)
    refused(ended, said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "5/4"], "shard '5/4' is not of the form i/n"),
        (["--retry", "all"], "--retry takes 'failed', not 'all'"),
        (["--log", "paper"], "unknown log 'paper'; valid: tensorboard"),
        (["--engine", "there"], "'there' is not one of"),
    ],
    ids=str,
)
def test_bad_options(
    words: list[str],
    said: str,
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
) -> None:
    refused(command("sweep", written(tmp_path, SPEC), "--out", out, *words), said)
    assert not out.exists()


def test_no_specification(command: Mtlbench, tmp_path: Path, out: Path) -> None:
    refused(command("sweep", tmp_path / "nosuch.yaml", "--out", out), "cannot be read as YAML")
    assert not out.exists()


def test_a_folder_that_cannot_be_made(command: Mtlbench, tmp_path: Path) -> None:
    spec = written(tmp_path, SPEC)
    refused(command("sweep", spec, "--out", spec / "out", *HERE), "cannot be written to")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(command: Mtlbench, tmp_path: Path, out: Path) -> None:
    out.mkdir(mode=0o500)
    refused(command("sweep", written(tmp_path, SPEC), "--out", out, *HERE), "cannot be written to")


def test_a_full_disk(
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the second record on: the first stays, and of the second nothing."""
    spec, fsync, left = written(tmp_path, SPEC | {"reference": False}), os.fsync, [2]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr("mtlbench.files.os.fsync", full)
    ended = command("sweep", spec, "--out", out, *HERE, "--checkpoint", "1000")
    refused(ended, "cannot be written to: its disk is full")
    monkeypatch.undo()
    assert len(list(out.glob("*.json"))) <= 1
    assert command("sweep", spec, "--out", out, *HERE).code == 0
    assert len(files(out)) == 4
    assert {record.status for record in Store(out)} == {"ok"}


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--status"]], ids=" ".join)
def test_records_of_a_newer_schema(
    words: list[str],
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
) -> None:
    run = checked(SweepSpec.parse(SPEC, "here").requests())[0]
    out.mkdir()
    path = Store(out).path(run.identity)
    path.write_text('{"schema_version": 2}\n')
    ended = command("sweep", written(tmp_path, SPEC), "--out", out, *HERE, *words)
    refused(ended, f"{path} is of schema version 2; this mtlbench reads version 1")
    assert path.read_text() == '{"schema_version": 2}\n'
    assert files(out) == [path.name]


@pytest.mark.parametrize(
    ("ray", "address", "said"),
    [
        (None, [], "Ray is not installed: pip install 'mtlbench[ray]'"),
        (types.ModuleType("ray"), ["--address", "127.0.0.1:9"], "no Ray cluster answers at 127"),
        (types.ModuleType("ray"), ["--address", "here"], "an address is of the form host:port"),
        (types.ModuleType("ray"), ["--address", "127.0.0.1:99999"], "no Ray cluster answers at"),
    ],
    ids=["not installed", "nobody there", "no address", "no port"],
)
def test_no_ray(
    ray: Any,
    address: list[str],
    said: str,
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)
    spec = written(tmp_path, SPEC)
    refused(command("sweep", spec, "--out", out, "--engine", "ray", *address), said)
    assert files(out) == []


# ------------------------------------------------------------------------------------ what it says
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole sweep, where one run failed."""
    folder = tmp_path_factory.mktemp("done")
    content = SPEC | {"tasks": [TOY, f"{TOY}:fault=raise"], "seeds": [0]}
    sweep(checked(SweepSpec.parse(content, "here").requests()), Store(folder), Here())
    return folder


def rows(ended: Ended) -> list[list[str]]:
    """Cells of a table, without its frame and head."""
    lines = [line for line in ended.out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_plan_of_a_sweep_that_has_not_begun(
    command: Mtlbench,
    tmp_path: Path,
    out: Path,
) -> None:
    ended = command("sweep", written(tmp_path, SPEC), "--out", out, "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert [row[1:4] for row in rows(ended)] == [
        ["stl", "none", "0 1"],
        ["ls", "none", "0 1"],
        ["uw", "none", "0 1"],
    ]
    assert {row[5] for row in rows(ended)} == {"unknown"}
    assert "6 runs, 0 done; 6 to run: how long is unknown until" in ended.out
    assert not out.exists()


def test_the_plan_of_a_part(command: Mtlbench, tmp_path: Path, done: Path) -> None:
    spec = written(tmp_path, SPEC)
    ended = command("sweep", spec, "--out", done, "--dry-run", "--shard", "2/3")
    assert ended.code == 0
    assert [row[1:4] for row in rows(ended)] == [["ls", "none", "1"]]
    assert "2 runs, 1 done; 1 to run: about " in ended.out
    assert "unknown" not in ended.out


def test_how_it_stands(command: Mtlbench, tmp_path: Path, done: Path) -> None:
    spec = written(tmp_path, SPEC | {"tasks": [TOY, f"{TOY}:fault=raise"], "reference": False})
    ended = command("sweep", spec, "--out", done, "--status")
    assert ended.code == 0
    found = rows(ended)
    assert [(row[0], row[2], row[4]) for row in found] == [
        ("missing", "ls", "1"),
        ("missing", "uw", "1"),
        ("failed", "ls", "0"),
        ("failed", "uw", "0"),
        ("missing", "ls", "1"),
        ("missing", "uw", "1"),
    ]
    assert found[2][5].startswith("failed: RuntimeError: ")
    assert ended.out.endswith("8 runs: 2 done, 4 missing, 2 failed\n")


def test_failed_runs_are_tried_again_only_on_request(
    command: Mtlbench,
    tmp_path: Path,
) -> None:
    task = f"{TOY}:fault=raise,once={tmp_path / 'once'}"
    spec = written(tmp_path, SPEC | {"tasks": [task], "methods": ["ls"], "reference": False})
    words = ["sweep", spec, "--out", tmp_path / "out", *HERE]
    first, second, third = (command(*words, *more) for more in ([], [], ["--retry", "failed"]))
    assert first.code == 1
    assert f"failed ls x none, seed 0: RuntimeError: {BROKEN}" in first.out
    assert "1 runs failed; with --retry failed the same command tries them again" in first.out
    assert second.out.startswith("2 runs, 2 of them done before")
    assert (second.code, third.code) == (0, 0)
    assert "ok ls x none, seed 0" in third.out
    assert "seed 1" not in third.out


@pytest.fixture
def newer_uw(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cls: Any = METHODS.get("uw")
    code_of.cache_clear()
    monkeypatch.setattr(cls, "info", dataclasses.replace(cls.info, version=7))
    yield
    code_of.cache_clear()


@pytest.mark.usefixtures("newer_uw")
def test_a_changed_method_makes_its_own_cells_stale(
    command: Mtlbench,
    tmp_path: Path,
    done: Path,
) -> None:
    spec = written(tmp_path, SPEC | {"seeds": [0]})
    ended = command("sweep", spec, "--out", done, "--status")
    assert [row[:5] for row in rows(ended)] == [["stale", TOY, "uw", "none", "0"]]
    assert ended.out.endswith("3 runs: 2 done, 1 stale\n")
    ended = command("sweep", spec, "--out", done, "--dry-run")
    assert [row[1:4] for row in rows(ended)] == [["uw", "none", "0"]]
