"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mtlbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then move it there: all of it or nothing.

    Raises:
        UsageError: the disk is full.
    """
    with named_if_full(path.parent):
        temporary = _beside(path)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new empty file in the folder of ``path``, named after it with a dot before."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except FileNotFoundError:
            if path.parent.is_dir():
                raise
        else:  # nobody has removed the folder, empty as it was
            os.close(handle)
            return Path(name)


@contextmanager
def named_if_full(folder: Path) -> Iterator[None]:
    """Name a disk that is full as what it is.

    Raises:
        UsageError: what failed within failed for lack of space, whatever error says so.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in FULL:
                raise UsageError(
                    f"{folder} cannot be written to: its disk is full ({cause.strerror})"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise


def check_writable(folder: Path) -> None:
    """Refuse an output folder before any work is put into it.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"output folder {folder} cannot be written to: {error.strerror}"
        ) from error


def to_csv(frame: pd.DataFrame) -> str:
    """A table as text, the same on every platform: six digits, ``\\n``, empty where missing."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n", na_rep="")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write :func:`to_csv`, all of it or nothing."""
    text = to_csv(frame)
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
