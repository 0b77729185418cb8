"""Stand-in data: whole or not at all, made once, the same bytes whoever makes them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtlbench.data.standin import (
    LICENCE,
    MANIFEST,
    Manifest,
    cache_folder,
    cached,
    check_manifest,
    checksum,
    generate,
    plan,
    read_manifest,
)
from mtlbench.data.standin.generation import MAKING
from mtlbench.errors import ContractError, DataError, UsageError
from mtlbench.interfaces import Common, Recipe
from tests.toy_recipe import RECIPE, SECONDS, sample_files, write_sample
from tests.toy_task import ToyTask

TOY = ToyTask.info.name
N = sum(RECIPE.counts.values())


def made(folder: Path, recipe: Recipe = RECIPE, jobs: int = 1, **more: Any) -> Manifest:
    return generate(plan(TOY, recipe), recipe, folder, jobs=jobs, **more)


def content(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def breaking(after: int, write: Callable[..., None] = write_sample) -> Recipe:
    """A recipe that is interrupted halfway through a sample."""
    left = after

    def interrupted(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
        nonlocal left
        if left == 0:
            sample_files(folder, split, index)[0].write_bytes(b"half of")
            raise KeyboardInterrupt
        left -= 1
        write(folder, split, index, size)

    return dataclasses.replace(RECIPE, write=interrupted)


def counting(samples: list[tuple[str, int]]) -> Recipe:
    """A recipe that notes what it makes."""

    def noted(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
        samples.append((split, index))
        write_sample(folder, split, index, size)

    return dataclasses.replace(RECIPE, write=noted)


# ------------------------------------------------------------------------------------ generating
def test_a_folder_holds_the_samples_and_says_so(tmp_path: Path) -> None:
    manifest = made(tmp_path / "toy")
    assert manifest == read_manifest(tmp_path / "toy")
    assert (manifest.task, manifest.version, manifest.licence) == (TOY, RECIPE.version, LICENCE)
    assert (manifest.counts, manifest.size) == (dict(RECIPE.counts), RECIPE.size)
    assert len(content(tmp_path / "toy")) == 2 * N + 1
    assert np.load(tmp_path / "toy" / "val" / "image" / "1.npy").shape == (*RECIPE.size, 3)
    assert list(check_manifest(TOY, RECIPE, tmp_path / "toy")) == []


@pytest.mark.timeout(300)
def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    samples: list[None] = []
    made(tmp_path / "two", jobs=2, on_sample=lambda: samples.append(None))
    made(tmp_path / "one")
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert len(samples) == N
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    """Its processes import it, and would wait for the data that it waits for."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mtlbench.data.standin import generate, plan\n"
        "from tests.toy_recipe import RECIPE\n"
        f"generate(plan('toy', RECIPE), RECIPE, Path({str(tmp_path / 'data')!r}), jobs=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert ended.returncode != 0
    assert "put its code under `if __name__" in ended.stderr


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    manifest = made(tmp_path)
    names = [
        path.relative_to(tmp_path).as_posix()
        for split, n in RECIPE.counts.items()
        for index in range(n)
        for path in sample_files(tmp_path, split, index)
    ]
    listed = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True)
    total = subprocess.run(["sha256sum"], input=listed.stdout, capture_output=True, check=True)
    assert total.stdout.decode().split()[0] == manifest.sha256


def test_counts_and_size_can_be_chosen(tmp_path: Path) -> None:
    wanted = plan(TOY, RECIPE, {"train": 1, "test": 0}, (2, 3))
    manifest = generate(wanted, RECIPE, tmp_path, jobs=1)
    assert manifest.counts == {"train": 1, "val": 2, "test": 0}
    assert np.load(tmp_path / "train" / "image" / "0.npy").shape == (2, 3, 3)
    assert not (tmp_path / "test").exists()
    assert manifest.sha256 != made(tmp_path / "defaults").sha256


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"tset": 1}, "task 'toy' generates no split 'tset'; valid: train, val, test"),
        ({"val": -1}, "the number of val samples must be at least 0, not -1"),
    ],
)
def test_a_bad_count_is_refused(counts: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(TOY, RECIPE, counts)


def test_a_recipe_has_to_write_what_it_says(tmp_path: Path) -> None:
    lazy = dataclasses.replace(RECIPE, write=lambda *sample: None)
    with pytest.raises(ContractError, match=r"did not write train/image/0\.npy"):
        made(tmp_path, lazy)


# ------------------------------------------------------------------------------------ again
@pytest.mark.parametrize("after", range(N))
def test_an_interrupted_folder_is_gone_on_with(after: int, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        made(folder, breaking(after))
    assert read_manifest(folder) is None
    whole = made(tmp_path / "unbroken")
    half = [path for path in folder.rglob("[0-9]*.npy") if MAKING not in path.parts]
    assert len(half) == 2 * after
    for path in half:
        assert path.read_bytes() == (tmp_path / "unbroken" / path.relative_to(folder)).read_bytes()
    (fault,) = check_manifest(TOY, RECIPE, folder)
    assert (fault.file, "half-made" in fault.what) == (folder, True)

    again: list[tuple[str, int]] = []
    samples: list[None] = []
    assert made(folder, counting(again), on_sample=lambda: samples.append(None)) == whole
    assert content(folder) == content(tmp_path / "unbroken")
    assert again == whole.samples[after:]
    assert len(samples) == N


def test_a_complete_folder_is_left_alone(tmp_path: Path) -> None:
    first = made(tmp_path)
    again: list[tuple[str, int]] = []
    assert made(tmp_path, counting(again)) == first
    assert again == []


def test_deleted_files_are_made_again(tmp_path: Path) -> None:
    first, before = made(tmp_path), content(tmp_path)
    (tmp_path / "val" / "label" / "1.npy").unlink()
    again: list[tuple[str, int]] = []
    assert made(tmp_path, counting(again)) == first
    assert again == [("val", 1)]
    assert content(tmp_path) == before


@pytest.mark.parametrize("state", ["complete", "half-made"])
@pytest.mark.parametrize(
    ("task", "version", "counts", "size"),
    [
        ("other", 1, {}, (4, 6)),
        (TOY, 2, {}, (4, 6)),
        (TOY, 1, {"val": 3}, (4, 6)),
        (TOY, 1, {}, (6, 4)),
    ],
    ids=["task", "version", "counts", "size"],
)
def test_a_folder_of_other_data_is_refused(
    state: str,
    task: str,
    version: int,
    counts: dict[str, int],
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    if state == "complete":
        made(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, breaking(2))
    before = content(tmp_path)
    changed = dataclasses.replace(RECIPE, version=version)
    wanted = plan(task, changed, counts, size)
    with pytest.raises(UsageError) as caught:
        generate(wanted, changed, tmp_path, jobs=1)
    has = "toy v1, 3 train, 2 val, 1 test, 4x6"
    assert f"{tmp_path} holds other stand-in data ({has})" in str(caught.value)
    assert f"to generate {wanted}" in str(caught.value)
    assert content(tmp_path) == before


def test_a_folder_of_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=f"{tmp_path} holds other files"):
        made(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "train"]


def test_a_folder_where_nothing_was_made_can_be_used_otherwise(tmp_path: Path) -> None:
    def refused(*sample: object) -> None:
        raise UsageError("a side is too small")

    with pytest.raises(UsageError, match="a side is too small"):
        made(tmp_path, dataclasses.replace(RECIPE, write=refused))
    assert generate(plan(TOY, RECIPE, {}, (6, 4)), RECIPE, tmp_path, jobs=1).size == (6, 4)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "toy").touch()
    with pytest.raises(UsageError, match=f"{tmp_path / 'toy'} cannot be written to"):
        made(tmp_path / "toy")


# ------------------------------------------------------------------------------------ common files
def listing(written: list[int] | None = None, *, halfway: bool = False) -> Recipe:
    """A recipe with a list of all samples."""

    def write(folder: Path, samples: Sequence[tuple[str, int]]) -> None:
        if written is not None:
            written.append(len(samples))
        text = "".join(f"{split} {index}\n" for split, index in samples)
        (folder / "lists" / "all.txt").write_text(text[:5] if halfway else text)
        if halfway:
            raise KeyboardInterrupt

    common = Common(lambda folder: [folder / "lists" / "all.txt"], write)
    return dataclasses.replace(RECIPE, common=common)


def test_common_files_are_written_once_and_are_part_of_the_hash(tmp_path: Path) -> None:
    written: list[int] = []
    manifest = made(tmp_path / "listed", listing(written))
    path = tmp_path / "listed" / "lists" / "all.txt"
    assert path.read_text().splitlines() == [f"{split} {i}" for split, i in manifest.samples]
    assert made(tmp_path / "listed", listing(written)) == manifest
    assert written == [N]
    assert manifest.sha256 != made(tmp_path / "plain").sha256
    assert list(check_manifest(TOY, listing(), tmp_path / "listed")) == []
    path.write_text("other")
    (fault,) = check_manifest(TOY, listing(), tmp_path / "listed")
    assert "changed or deleted" in fault.what


def test_common_files_that_were_interrupted_or_deleted_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "all.txt"
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, listing(halfway=True))
    assert not path.exists()
    assert read_manifest(tmp_path) is None
    samples: list[tuple[str, int]] = []
    recipe = dataclasses.replace(counting(samples), common=listing().common)
    first, before = made(tmp_path, recipe), content(tmp_path)
    path.unlink()
    assert made(tmp_path, recipe) == first
    assert (content(tmp_path), samples) == (before, [])


def test_a_common_file_has_to_be_written(tmp_path: Path) -> None:
    common = Common(lambda folder: [folder / "all.txt"], lambda *anything: None)
    with pytest.raises(ContractError, match=r"did not write all\.txt"):
        made(tmp_path, dataclasses.replace(RECIPE, common=common))


# ------------------------------------------------------------------------------------ manifests
@pytest.mark.parametrize("change", ["cut", "delete"])
def test_a_changed_file_changes_the_hash(change: str, tmp_path: Path) -> None:
    manifest = made(tmp_path)
    file = tmp_path / "test" / "label" / "0.npy"
    file.unlink() if change == "delete" else os.truncate(file, 100)
    found = checksum(RECIPE, tmp_path, manifest)
    assert found != manifest.sha256
    (fault,) = check_manifest(TOY, RECIPE, tmp_path)
    assert fault.file == tmp_path / MANIFEST
    assert found in fault.what
    assert manifest.sha256 in fault.what


def test_a_manifest_of_another_version(tmp_path: Path) -> None:
    made(tmp_path)
    newer = dataclasses.replace(RECIPE, version=2)
    (fault,) = check_manifest(TOY, newer, tmp_path)
    assert "of toy v1" in fault.what
    assert "expected toy v2" in fault.what


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: json.dumps({**json.loads(text), "surprise": 1}),
    ],
    ids=["half", "empty", "unknown field"],
)
def test_a_corrupt_manifest_is_named(spoil: Callable[[str], str], tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DataError, match=f"{path} is no manifest"):
        read_manifest(tmp_path)
    (fault,) = check_manifest(TOY, RECIPE, tmp_path)
    assert (fault.file, "is no manifest" in fault.what) == (path, True)


def test_a_folder_without_a_manifest_has_nothing_to_be_held_to(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert list(check_manifest(TOY, RECIPE, tmp_path)) == []


# ------------------------------------------------------------------------------------ cache
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MTLBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "mtlbench"


def test_data_is_generated_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("mtlbench.data.standin.generation.cores", lambda: 1)
    samples: list[tuple[str, int]] = []
    recipe = counting(samples)
    with caplog.at_level(logging.INFO, "mtlbench.data.standin"):
        folder = cached(TOY, recipe)
    assert folder.parent == tmp_path
    assert samples == plan(TOY, RECIPE).samples
    assert f"in {folder}" in caplog.messages[0]
    assert caplog.messages[1].startswith("generated in ")
    caplog.clear()
    assert cached(TOY, recipe) == folder
    assert (len(samples), caplog.messages) == (N, [])


@pytest.mark.parametrize("change", [{"version": 2}, {"counts": {"train": 1}}, {"size": (2, 2)}])
def test_other_data_lies_elsewhere(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("mtlbench.data.standin.generation.cores", lambda: 1)
    assert cached(TOY, RECIPE) != cached(TOY, dataclasses.replace(RECIPE, **change))


def test_two_threads_that_start_at_once_share_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MTLBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv(SECONDS, "0.05")
    monkeypatch.setattr("mtlbench.data.standin.generation.cores", lambda: 1)
    samples: list[tuple[str, int]] = []
    recipe = counting(samples)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: cached(TOY, recipe), range(2))
    assert first == second
    assert len(samples) == N


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_that_start_at_once_share_the_work(tmp_path: Path) -> None:
    code = (
        "from mtlbench import standin\n"
        "from tests.toy_recipe import RECIPE\n"
        "standin.cores = lambda: 1\n"
        "made, write = 0, RECIPE.write\n"
        "def noted(*sample):\n"
        "    global made\n"
        "    made += 1\n"
        "    write(*sample)\n"
        "object.__setattr__(RECIPE, 'write', noted)\n"
        "print(standin.cached('toy', RECIPE), made)\n"
    )
    environment = {**os.environ, "MTLBENCH_CACHE": str(tmp_path), SECONDS: "0.2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[0][0] == said[1][0]
    assert sorted(int(n) for _, n in said) == [0, N]
    assert list(check_manifest(TOY, RECIPE, Path(said[0][0]))) == []
