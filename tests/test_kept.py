"""Arrays that are made of a data set once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from mtlbench.data import kept
from mtlbench.data.kept import kept_array
from mtlbench.errors import DataError, UsageError

NAMES = ("a", "b/c")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data/b").mkdir(parents=True)
    write(tmp_path / "data", b"12", b"345")
    return tmp_path / "data"


def write(data: Path, *contents: bytes, at: float = 1e9) -> None:
    for name, content in zip(NAMES, contents, strict=True):
        (data / name).write_bytes(content)
        os.utime(data / name, (at, at))


class Maker:
    """Makes an array of the files' bytes, and counts how often."""

    def __init__(self, data: Path) -> None:
        self.data, self.made = data, 0

    def __call__(self, how: str = "as it is") -> str:
        return bytes(kept_array(self.data, NAMES, how, self.fill)).decode()

    def fill(self, file: BinaryIO) -> None:
        self.made += 1
        whole = b"".join((self.data / name).read_bytes() for name in NAMES)
        np.save(file, np.frombuffer(whole, np.uint8))


def arrays(data: Path) -> list[Path]:
    return sorted((data.parent / "cache").rglob("*.npy"))


def test_it_is_made_once_and_again_when_a_file_changes(data: Path) -> None:
    make = Maker(data)
    assert [make(), make(), make("otherwise")] == ["12345"] * 3
    assert make.made == 2
    one, two = arrays(data)
    write(data, b"12", b"67")
    assert [make(), make()] == ["1267"] * 2
    assert make.made == 3
    assert len(set(arrays(data)) & {one, two}) == 1  # the older one is gone
    write(data, b"12", b"89", at=1e9 + 1)
    assert make() == "1289"


def test_files_that_may_change_again_are_not_trusted(data: Path) -> None:
    (data / "a").write_bytes(b"00")
    make = Maker(data)
    assert [make(), make()] == ["00345"] * 2
    assert make.made == 2
    assert arrays(data) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-34] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, lambda path: path.write_bytes(b""), Path.unlink])
def test_what_is_corrupt_is_made_again(
    harm: Callable[[Path], object], data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker(data)
    make()
    harm(arrays(data)[0])
    assert [make(), make()] == ["12345"] * 2
    assert make.made == 2
    said = [] if harm is Path.unlink else [f"{arrays(data)[0]} is corrupt, and made again"]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == said


def test_a_large_array_is_checked_in_parts(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PART", 8)
    monkeypatch.setattr(kept, "PARTS", 3)
    make = Maker(data)
    make()
    flip(arrays(data)[0])
    assert make() == "12345"
    assert make.made == 2


def test_what_cannot_be_kept_is_made_anew(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (data.parent / "cache").write_text("a file, where a folder should be")
    make = Maker(data)
    assert [make(), make()] == ["12345"] * 2
    assert make.made == 2
    assert "is made anew in every run, as it cannot be kept" in caplog.text


def test_bad_files_leave_nothing_behind(data: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise DataError("x cannot be read")

    with pytest.raises(DataError, match=r"^x cannot be read$"):
        kept_array(data, NAMES, "", fail)
    assert not any(p.is_file() and p.stat().st_size for p in (data.parent / "cache").rglob("*"))
    (data / "a").unlink()
    with pytest.raises(DataError, match="/a cannot be read: No such file"):
        kept_array(data, NAMES, "", fail)
    assert issubclass(DataError, UsageError)


def _ask(data: Path, counted: Path, begun: threading.Event) -> None:
    make = Maker(data)
    begun.wait(10)
    assert make() == "12345"
    with counted.open("a") as file:
        file.write(f"{make.made}\n")


def test_one_process_makes_it_while_others_wait(data: Path) -> None:
    forked = multiprocessing.get_context("fork")
    begun, counted = forked.Event(), data.parent / "counted"
    processes = [forked.Process(target=_ask, args=(data, counted, begun)) for _ in range(4)]
    for process in processes:
        process.start()
    begun.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(counted.read_text().split()) == ["0", "0", "0", "1"]
