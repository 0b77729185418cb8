"""What a data set holds, as a hash of its files: names and numbers of rows say little of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtlbench.data.standin import cache_folder
from mtlbench.errors import DataError, UsageError
from mtlbench.files import write_atomically

WHOLE = 2 * 2**30
"""Bytes of a folder up to which all that is in its files counts."""
SAMPLES, SAMPLE = 16, 4096
"""Beyond, so many parts of a file, evenly spread over it, of so many bytes each."""
FRESH = 2.0
"""Seconds: a file as young may change again without its time of change showing it."""
_RUNS = re.compile(r".*-s\d+-[0-9a-f]{12}\.(json|csv|pt)(\..*)?")
"""Records, models and checkpoints, which may lie below the data."""
_PATIENCE = 2.0

logger = logging.getLogger(__name__)

Stamp = tuple[int, int]
"""Size, and time of the last change in ns."""


def content_of(paths: Sequence[Path]) -> str:
    """Hash of what files and folders hold; empty if there are none.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        hashes = [_content(path) if path.is_dir() else _hash(path, whole=True) for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    if len(hashes) < 2:
        return "".join(hashes)
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _content(folder: Path) -> str:
    """Hash of the paths and contents of all files below a folder.

    The same for a copy elsewhere. Hidden files, byte code and records of runs do not count. What
    was read once is known by size and time of change, and not read again.
    """
    files = dict(sorted(_files(folder)))
    whole = sum(size for size, _ in files.values()) <= WHOLE
    hashes = _hashes(folder, files, whole=whole)
    total = hashlib.sha256()
    for name, (size, _) in files.items():
        total.update(f"{name}\0{size}\0{hashes[name]}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Relative paths with their stamps; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(root)
        if (stat.st_dev, stat.st_ino) in seen and stat.st_ino:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = [name for name in folders if not _ignored(name)]
        for name in names:
            path = os.path.join(root, name)
            if not _ignored(name) and os.path.isfile(path):
                stat = os.stat(path)
                yield Path(path).relative_to(folder).as_posix(), (stat.st_size, stat.st_mtime_ns)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or _RUNS.fullmatch(name) is not None


def _hashes(folder: Path, files: Mapping[str, Stamp], *, whole: bool) -> dict[str, str]:
    """Hash of each file's content, from the cache where its stamp is the one of before."""
    memory = cache_folder() / "content" / f"{_key(folder)}-{'whole' if whole else 'parts'}.json"
    known = _recall(memory)
    start, hashes, new = time.perf_counter(), {}, False
    told = False
    for name, stamp in files.items():
        before = known.get(name)
        if before is not None and (before[0], before[1]) == stamp:
            hashes[name] = str(before[2])
            continue
        hashes[name], new = _hash(folder / name, whole=whole), True
        if not told and time.perf_counter() - start > _PATIENCE:
            told = True
            logger.info("reading %s, to know it again when it changes", folder)
    if new or len(known) > len(files):
        oldest = time.time_ns() - int(FRESH * 1e9)
        kept = {n: (*s, hashes[n]) for n, s in files.items() if s[1] < oldest}
        _remember(memory, kept)
    return hashes


def _key(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]


def _hash(path: Path, *, whole: bool) -> str:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if whole or size <= SAMPLES * SAMPLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        total = hashlib.sha256()
        for i in range(SAMPLES):
            file.seek(i * (size - SAMPLE) // (SAMPLES - 1))
            total.update(file.read(SAMPLE))
        return total.hexdigest()


def _recall(memory: Path) -> dict[str, tuple[int, int, str]]:
    try:
        known = json.loads(memory.read_text())
        return {str(name): (int(s), int(t), str(h)) for name, (s, t, h) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, kept: Mapping[str, tuple[int, int, str]]) -> None:
    """Keep hashes for the next time; without a cache they are made anew."""
    text = json.dumps(kept)
    try:
        write_atomically(memory, lambda temporary: temporary.write_text(text))
    except (OSError, UsageError):
        logger.debug("hashes of data are not kept in %s", memory)
