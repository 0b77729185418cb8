"""Which layout a folder has; its molecules, parsed once into the cache."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock

from mtlbench.data import load_npz, refuse
from mtlbench.data.standin import cache_folder
from mtlbench.errors import DataError
from mtlbench.files import check_writable, write_atomically
from mtlbench.interfaces import Fault
from mtlbench.tasks._molecules import geometric, qm9pack
from mtlbench.tasks._molecules.arrays import (
    ARRAYS,
    Part,
    compact,
    faults,
    gaps,
    joined,
    repeated,
)
from mtlbench.tasks._molecules.padded import Molecules
from mtlbench.tasks._molecules.split import FULL

VERSION = 1
"""Raise it with any change of what the readers make of a file."""
OWN = "qm9.npz"
FEWEST = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """A way in which QM9 is stored.

    Args:
        name: of the file in the cache.
        files: all that are needed, below the folder.
        read: the molecules, from what is there of the files.
        places: where the folder may be, below the one that a user names.
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], Iterator[Part]]
    places: tuple[str, ...] = (".",)


LAYOUTS = (
    Layout("geometric", geometric.PROCESSED, geometric.read_processed),
    Layout("sdf", geometric.RAW, geometric.read_raw),
    Layout("qm9pack", qm9pack.FILES, qm9pack.read, (".", "data", "qm9pack/data")),
)


def archive(data: Path, source: str) -> Path:
    """The file with the arrays of a folder: its own, or one in the cache.

    Args:
        data: in mtlbench's own layout, or in one of :data:`LAYOUTS`; the first that is found.
        source: how to get the data set, for the message of an error.

    Raises:
        DataError: the folder has no layout that is known, or its files have faults.
    """
    if (data / OWN).is_file():
        return data / OWN
    folder, layout = _layout(data, source)
    refuse(_missing(folder, layout), source)
    path = cache_folder() / f"qm9-{layout.name}-v{VERSION}-{_digest(folder, layout)}.npz"
    if not path.is_file():
        check_writable(path.parent)
        with FileLock(f"{path}.lock"):  # a sweep's other processes wait for it
            if not path.is_file():
                _parse(folder, layout, path, source)
    return path


def _parse(folder: Path, layout: Layout, path: Path, source: str) -> None:
    logger.info("reading the molecules in %s, once; they are kept in %s", folder, path)
    start = time.perf_counter()
    parts = list(layout.read(folder))
    refuse(_faults(parts), source)
    arrays = compact(joined(parts))

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_atomically(path, save)
    logger.info("read %s molecules in %.1f s", f"{len(arrays['n']):,}", time.perf_counter() - start)


@lru_cache(maxsize=2)
def molecules(path: Path, source: str) -> Molecules:
    """The molecules of a file in mtlbench's own format.

    Raises:
        DataError: the file is missing or corrupt, or its arrays have faults.
    """
    part = _own(path, source)
    refuse(_faults([part]), source)
    count = len(part.arrays["n"])
    if count < FEWEST:
        raise DataError(f"{path} has {count} molecules: expected at least {FEWEST}. {source}")
    return Molecules(part.arrays)


def verify(data: Path, source: str) -> Iterator[Fault]:
    """All that is wrong with a folder; in mtlbench's own layout it may be a part of QM9."""
    try:
        if (data / OWN).is_file():
            parts, folder, complete = [_own(data / OWN, source)], data, False
        else:
            folder, layout = _layout(data, source)
            missing = list(_missing(folder, layout))
            yield from missing
            parts, complete = list(layout.read(folder)), not missing
    except DataError as error:
        yield Fault(data, str(error).removeprefix(f"{data} "))
        return
    yield from _faults(parts)
    for part in parts:
        yield from gaps(part)
    count = sum(len(part.arrays["n"]) for part in parts)
    if complete and count != FULL:
        yield Fault(folder, f"has {count:,} molecules that can be read, expected {FULL:,}")


def _own(path: Path, source: str) -> Part:
    if path.parent == cache_folder():
        source = f"Delete it to make it anew. {source}"
    return Part(path, load_npz(path, tuple(ARRAYS), source))


def _faults(parts: list[Part]) -> Iterator[Fault]:
    for part in parts:
        yield from faults(part)
    yield from repeated(parts)


def _layout(data: Path, source: str) -> tuple[Path, Layout]:
    for layout in LAYOUTS:
        for place in layout.places:
            if any((data / place / name).is_file() for name in layout.files):
                return data / place, layout
    known = ", ".join([OWN, *(layout.files[0] for layout in LAYOUTS)])
    raise DataError(f"{data} holds no QM9: expected one of {known}. {source}")


def _missing(folder: Path, layout: Layout) -> Iterator[Fault]:
    for name in layout.files:
        if not (folder / name).is_file():
            yield Fault(folder / name, f"is missing: expected with {', '.join(layout.files)}")


def _digest(folder: Path, layout: Layout) -> str:
    """Of the content of all files: another source is parsed anew."""
    total = hashlib.sha256()
    for name in layout.files:
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
