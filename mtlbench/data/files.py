"""Data sets on disk: arrays from a file, and what to say of a folder that is not in order."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlbench.errors import DataError
from mtlbench.interfaces import Fault, TaskInfo


def refuse(faults: Iterable[Fault], source: str) -> None:
    """Raise the first fault.

    Args:
        faults: what is wrong with a data set.
        source: how to get it, for the message.

    Raises:
        DataError: there is one.
    """
    for fault in faults:
        raise DataError(f"{fault.file} {fault.what}. {source}")


def load_npz(path: Path, keys: Sequence[str], source: str) -> dict[str, NDArray[Any]]:
    """The arrays ``keys`` of a NumPy archive.

    Args:
        source: how to get the file, for the message of an error.

    Raises:
        DataError: the file is missing, corrupt, or lacks an array.
    """
    expected = f"expected a NumPy .npz archive with the arrays {', '.join(keys)}. {source}"
    if not path.is_file():
        raise DataError(f"{path} is missing: {expected}")
    try:
        # np.load leaves a file open that it finds to be corrupt.
        with path.open("rb") as file:
            archive = np.load(file)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            missing = [key for key in keys if key not in archive]
            if not missing:
                return {key: archive[key] for key in keys}
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is corrupt ({error}): {expected}") from error
    raise DataError(f"{path} lacks the arrays {', '.join(missing)}: {expected}")


def check_folder(data: Path, info: TaskInfo) -> None:
    """Refuse a data folder that is not there.

    Raises:
        DataError: it is not, and how to get the data.
    """
    if not data.is_dir():
        raise DataError(f"data folder {data} does not exist; {info.source}")
