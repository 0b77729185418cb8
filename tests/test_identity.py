"""What makes two runs the same: names do not; code, data and declared versions do."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtlbench.registry import METHODS
from mtlbench.runs import content
from mtlbench.runs.code import code_of
from mtlbench.runs.content import content_of
from mtlbench.runs.identity import RunIdentity
from mtlbench.runs.record import read_record
from mtlbench.runs.spec import RunSpec, _task, prepare
from tests.toy_task import TOY

RECORDS = Path(__file__).parent.parent / "leaderboards"

METHOD = '''
"""A method that calls itself as a built-in one does."""
from mtlbench import MethodInfo, WeightingMethod
from own.helper import weights_of
import own.data

class Sum(WeightingMethod):
    """Docs."""
    info = MethodInfo(name="ls", title="LS", year=2026)

    def weights(self, view):
        """Docs."""
        return weights_of(view.losses)  # a comment
'''
HELPER = """
from . import deeper

def weights_of(losses):
    return deeper.SCALE * losses.new_ones(losses.shape)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a user's own."""
    folder = tmp_path / "here" / "own"
    folder.mkdir(parents=True)
    files = {"__init__": "", "method": METHOD, "helper": HELPER, "deeper": "SCALE = 1.0\n"}
    for name, text in (files | {"data": "", "unused": "A = 1\n"}).items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own", "beside")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    _task.cache_clear()


def identity(method: str = "own.method:Sum", **more: Any) -> RunIdentity:
    """As a process would see it that starts now."""
    forget()
    return prepare(RunSpec(TOY, method, device="cpu", **more)).identity


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ------------------------------------------------------------------------------------ code
def test_the_name_of_a_built_in_method_does_not_make_a_method_it(package: Path) -> None:
    own, built_in = identity(), identity("ls")
    assert own.method == built_in.method == "ls"
    assert own.digest != built_in.digest
    assert str(own.method_code).startswith("own.method:Sum@")
    assert built_in.method_code is None


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method", "weights_of(view.losses)", "2 * weights_of(view.losses)"),
        ("helper", "losses.new_ones", "2 * losses.new_ones"),
        ("deeper", "1.0", "2.0"),
        ("__init__", "", "import torch\n"),
    ],
)
def test_an_edit_makes_another_run(file: str, old: str, new: str, package: Path) -> None:
    before = identity()
    assert identity() == before
    edit(package / f"{file}.py", old, new)
    assert identity().digest != before.digest


def test_a_cosmetic_edit_makes_none(package: Path) -> None:
    before = identity()
    edit(package / "method.py", '"""Docs."""', "'''Other\n    docs.'''")
    edit(package / "method.py", "  # a comment", "")
    edit(package / "method.py", "(view.losses)", "(\n            view.losses,\n        )")
    edit(package / "unused.py", "1", "2")
    assert identity() == before


def test_a_copy_elsewhere_is_the_same_code(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity()
    elsewhere = package.parent.with_name("elsewhere")
    shutil.move(package.parent, elsewhere)
    monkeypatch.syspath_prepend(str(elsewhere))
    assert identity() == before


def test_a_script_and_the_files_beside_it(package: Path) -> None:
    (package.parent / "mine.py").write_text(METHOD.replace("own.helper", "beside"))
    beside = package.parent / "beside.py"
    beside.write_text(HELPER.replace("from . import", "from own import"))
    before = identity("mine:Sum")
    edit(package / "deeper.py", "1.0", "2.0")
    del sys.modules["mine"]
    after = identity("mine:Sum")
    del sys.modules["mine"]
    assert after.digest != before.digest
    assert str(before.method_code).startswith("mine:Sum@")


def test_a_base_class_counts(package: Path) -> None:
    (package / "derived.py").write_text("from own.method import Sum\nclass Mine(Sum):\n    pass\n")
    before = identity("own.derived:Mine")
    edit(package / "deeper.py", "1.0", "2.0")
    assert identity("own.derived:Mine").digest != before.digest


def test_a_declared_version_stands_for_the_source(package: Path) -> None:
    edit(package / "method.py", "year=2026", "year=2026, version=1")
    before = identity()
    assert str(before.method_code) == "own.method:Sum@v1"
    edit(package / "deeper.py", "1.0", "2.0")
    assert identity() == before
    edit(package / "method.py", "version=1", "version=2")
    assert identity().digest != before.digest


def test_a_task_of_ones_own_is_its_source(package: Path) -> None:
    text = "from tests.toy_task import ToyTask\nclass Mine(ToyTask):\n    {}\n"
    (package / "task.py").write_text(text.format("pass"))

    def seen() -> RunIdentity:
        forget()
        return prepare(RunSpec("own.task:Mine", "ls", device="cpu")).identity

    before = seen()
    assert "task own.task:Mine@" in before.data_label
    assert seen() == before
    (package / "task.py").write_text(text.format("rate = 0.1"))
    assert seen().digest != before.digest


def test_built_in_classes_are_what_they_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepare(RunSpec(TOY, "ls", device="cpu")).identity
    cls = METHODS.get("ls")
    digests = {}
    for version in (None, 1, 2, 3):
        code_of.cache_clear()
        monkeypatch.setattr(cls, "info", replace(cls.info, version=version))
        found = prepare(RunSpec(TOY, "ls", device="cpu")).identity
        digests[version] = found.digest
    code_of.cache_clear()
    assert digests[None] == digests[1] == before.digest
    assert len(set(digests.values())) == 3
    assert str(found.method_code) == "v3"


def test_a_version_that_is_inherited_is_not_declared(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from mtlbench.methods.ls import {0}\nclass Mine({0}):\n    {1}\n"
    cls = METHODS.get("ls")
    before = []
    for version, body in ((2, "pass"), (2, "more = 1"), (3, "more = 1")):
        monkeypatch.setattr(cls, "info", replace(cls.info, version=version))
        (package / "mine.py").write_text(text.format(cls.__name__, body))
        before.append(identity("own.mine:Mine").digest)
    assert len(set(before)) == 3


def test_committed_records_keep_their_digests() -> None:
    for path in sorted(RECORDS.rglob("*-s0-*.json")):
        assert read_record(path).identity.stem == path.stem


@pytest.mark.parametrize("method", ["stl", "ls", "fairgrad", "uw"])
def test_what_was_published_is_what_would_be_run(method: str) -> None:
    identity = prepare(RunSpec("multimnist", method, epochs=12, device="cpu")).identity
    assert (RECORDS / "records" / f"{identity.stem}.json").exists()


# ------------------------------------------------------------------------------------ data
@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "sub" / "image.npy").write_bytes(bytes(range(256)))
    age(folder)
    return folder


def age(folder: Path) -> None:
    """Let all files look as if they had been written an hour ago."""
    for path in folder.rglob("*"):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 3600 * 10**9))


def test_corrected_data_make_another_run(data: Path) -> None:
    wanted = RunSpec(TOY, "ls", device="cpu", data=data)
    before = prepare(wanted).identity
    assert before.digest != prepare(RunSpec(TOY, "ls", device="cpu")).identity.digest
    edit(data / "table.csv", "1,2", "3,4")
    forget()
    after = prepare(wanted).identity
    assert after.digest != before.digest
    assert (after.data_source, after.data_label) != (before.data_source, before.data_label)
    assert after.data_source == before.data_source


@pytest.mark.parametrize(
    "change",
    [
        lambda data: edit(data / "table.csv", "1", "7"),
        lambda data: (data / "sub" / "image.npy").write_bytes(bytes(reversed(range(256)))),
        lambda data: (data / "table.csv").rename(data / "other.csv"),
        lambda data: (data / "new.csv").write_text(""),
        lambda data: (data / "table.csv").unlink(),
    ],
    ids=["same size", "below", "name", "one more", "one less"],
)
def test_what_is_in_the_files_counts(change: Callable[[Path], object], data: Path) -> None:
    before = content_of([data])
    change(data)
    assert content_of([data]) != before


def test_where_and_when_does_not_count(data: Path) -> None:
    before = content_of([data])
    age(data)
    assert content_of([data]) == before
    assert content_of([Path(shutil.copytree(data, data.with_name("copy")))]) == before
    for name in (".DS_Store", "__pycache__/a.pyc", "toy-mini-ls-none-s0-0123456789ab.json"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("")
    assert content_of([data]) == before


def test_files_are_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = content._hash

    def reading(path: Path, *, whole: bool) -> str:
        read.append(path.name)
        return real(path, whole=whole)

    monkeypatch.setattr(content, "_hash", reading)
    digest = content_of([data])
    assert sorted(read) == ["image.npy", "table.csv"]
    assert content_of([data]) == digest
    assert len(read) == 2
    (data / "table.csv").write_text("a,b\n9,2\n")  # the same size, and just now
    for _ in range(2):
        assert content_of([data]) != digest
    assert read[2:] == ["table.csv"] * 2  # young files are read again


def test_of_large_folders_parts_are_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "WHOLE", 1000)
    monkeypatch.setattr(content, "SAMPLE", 4)
    large = bytearray(10_000)
    (data / "large.bin").write_bytes(large)
    digests = {content_of([data])}
    for place in (0, 5332, 9999):
        large[place] = 1
        (data / "large.bin").write_bytes(large)
        digests.add(content_of([data]))
    assert len(digests) == 4
    (data / "large.bin").write_bytes(large + b"1")
    assert content_of([data]) not in digests


def test_links_are_followed_and_end(data: Path) -> None:
    before = content_of([data])
    (data / "sub" / "up").symlink_to(data)
    assert content_of([data]) == before
    elsewhere = data.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "file").write_text("1")
    (data / "link").symlink_to(elsewhere)
    linked = content_of([data])
    assert linked != before
    (elsewhere / "file").write_text("2")
    assert content_of([data]) not in (before, linked)


def test_without_a_cache_it_works_all_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of([data])
    (data.parent / "file").write_text("")
    monkeypatch.setenv("MTLBENCH_CACHE", str(data.parent / "file"))
    assert content_of([data]) == before


def test_files_that_options_name_count(package: Path, data: Path) -> None:
    (package / "task.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        from tests.toy_task import ToyTask
        class Mine(ToyTask):
            def __init__(self, protocol, data: Path | None = None, *, table: Path) -> None:
                super().__init__(protocol, data)
        """)
    )

    def seen() -> RunIdentity:
        forget()
        task = f"own.task:Mine:table={data / 'table.csv'}"
        return prepare(RunSpec(task, "ls", device="cpu")).identity

    before = seen()
    assert seen().digest == before.digest
    edit(data / "table.csv", "1", "7")
    assert seen().digest != before.digest


def test_what_the_same_words_once_were() -> None:
    now = identity("fairgrad:alpha=2")
    options = dict(now.method_options)
    del options["solver"]
    once = now.model_copy(update={"method_options": options, "protocol_version": 0})
    assert now.same_words(once)
    assert not once.same_words(now)
    assert not now.same_words(identity("fairgrad:alpha=1"))
