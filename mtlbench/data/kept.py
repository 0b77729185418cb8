"""Arrays that are made of a data set once, and read by all runs of a user from the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from mtlbench.data.standin import cache_folder
from mtlbench.errors import DataError, UsageError
from mtlbench.files import write_atomically

FOLDER = "arrays"
FRESH = 2.0
"""Seconds: a file as young may change again without its time of change showing it."""
PARTS, PART = 64, 2**16
"""What of an array is checked whenever it is opened: so many parts of so many bytes."""
_DIGEST = 32

logger = logging.getLogger(__name__)

Mapped = np.memmap[Any, np.dtype[Any]]
Fill = Callable[[BinaryIO], object]
"""Writes an array in NumPy's format."""


def kept_array(folder: Path, names: Sequence[str], how: str, fill: Fill) -> Mapped:
    """An array that is made of files, mapped into memory: processes share it, and what is not read
    takes none.

    It is made again when size or time of change of a file are others; what was made of them before
    is then removed. One process makes it, others wait. Of files that were changed this very moment,
    or without a cache that can be written to, it is this process's own.

    Args:
        folder: where the files are.
        names: relative paths; their order counts.
        how: what else the array depends on, in words: settings, versions of what reads the files.
        fill: makes it.

    Raises:
        DataError: a file is missing, or ``fill`` finds one to be corrupt.
        UsageError: there is no room for it.
    """
    place, stamp, newest = _stamped(folder, names, how)
    if newest < time.time() - FRESH:
        path = cache_folder() / FOLDER / f"{place}-{stamp}.npy"
        try:
            return _shared(path, place, fill)
        except DataError:
            raise
        except (OSError, NotImplementedError, UsageError) as error:
            logger.warning("%s is made anew in every run, as it cannot be kept: %s", path, error)
    with tempfile.TemporaryDirectory(prefix="mtlbench-", ignore_cleanup_errors=True) as own:
        path = Path(own) / "array.npy"
        return _made(path, fill)  # it can be read after its name is gone


def _stamped(folder: Path, names: Sequence[str], how: str) -> tuple[str, str, float]:
    """What the array is called by, what the files are known by, and when the last was changed."""
    root = os.path.abspath(folder)
    place, stamps, newest = hashlib.sha256(f"{root}\0{how}".encode(errors="surrogateescape")), [], 0
    place.update("\0".join(names).encode(errors="surrogateescape"))
    try:
        for name in names:
            stat = os.stat(os.path.join(root, name))
            stamps.append((stat.st_size, stat.st_mtime_ns))
            newest = max(newest, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    stamp = hashlib.sha256(np.array(stamps, np.int64).tobytes())
    return place.hexdigest()[:16], stamp.hexdigest()[:16], newest / 1e9


def _shared(path: Path, place: str, fill: Fill) -> Mapped:
    """The array in the cache; made by this process if no other does."""
    found = _opened(path)
    if found is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent / f".{place}.lock", path):
        found = _opened(path)  # if another was at it
        if found is None:
            if path.exists():
                logger.warning("%s is corrupt, and made again", path)
            found = _made(path, fill)
            for other in path.parent.glob(f"{place}-*.npy"):
                if other != path:
                    other.unlink(missing_ok=True)
        return found


@contextmanager
def _alone(lock_file: Path, path: Path) -> Iterator[None]:
    """One process at a time; the lock of one that dies is nobody's."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process, which makes %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(path: Path, fill: Fill) -> Mapped:
    write_atomically(path, partial(_write, fill))
    found = _opened(path)
    if found is None:
        raise UsageError(f"{path} is not what was written to it a moment ago: see to its disk")
    return found


def _write(fill: Fill, path: Path) -> None:
    with path.open("w+b") as file:
        fill(file)
        file.seek(0, os.SEEK_END)
        digest = _digest(file, file.tell())
        file.seek(0, os.SEEK_END)
        file.write(digest)


def _opened(path: Path) -> Mapped | None:
    """The array; None if it is not there, or is not what was written."""
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size - _DIGEST
            digest = _digest(file, end)
            file.seek(end)
            if file.read() != digest:
                return None
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None


def _digest(file: BinaryIO, end: int) -> bytes:
    """Hash of what is before ``end``, of parts spread over it where that is much."""
    total = hashlib.sha256(str(end).encode())
    whole = end <= PARTS * PART
    for i in range(1 if whole else PARTS):
        file.seek(i * (end - PART) // (PARTS - 1) if i else 0)
        total.update(file.read(end if whole else PART))
    return total.digest()
