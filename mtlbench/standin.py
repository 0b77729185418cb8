"""Stand-in data: generated once in the real data set's layout, then read by the real loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """How a task's stand-in data is generated.

    Args:
        version: raise it with any change of what is written.
        counts: split to number of samples.
        size: height and width of an image.
        files: ``files(folder, split, index)``, the files of one sample.
        write: ``write(folder, split, index, size)`` writes them; a function of a module, as it runs
            in other processes.
    """

    version: int
    counts: Mapping[str, int]
    size: tuple[int, int]
    files: Callable[[Path, str, int], Sequence[Path]]
    write: Callable[[Path, str, int, tuple[int, int]], None]
