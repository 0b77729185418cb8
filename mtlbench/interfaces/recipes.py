"""How a task declares the generation of its stand-in data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Files = Callable[[Path, str, int], Sequence[Path]]
Write = Callable[[Path, str, int, tuple[int, int]], None]


@dataclass(frozen=True)
class Common:
    """Files that belong to all samples together, such as a list of their labels.

    They are written last, and follow from the samples that there are.

    Args:
        files: ``files(folder)``, other files than those of the samples.
        write: ``write(folder, samples)`` writes them, into folders that are there; ``samples`` are
            pairs of split and index.
    """

    files: Callable[[Path], Sequence[Path]]
    write: Callable[[Path, Sequence[tuple[str, int]]], None]


@dataclass(frozen=True)
class Recipe:
    """How a task's stand-in data is generated.

    A sample follows from its split, its index and the size alone: the same ones, the same bytes.

    Args:
        version: raise it with any change of what is written.
        counts: split to number of samples.
        size: height and width of an image.
        files: ``files(folder, split, index)``, the files of one sample and of no other.
        write: ``write(folder, split, index, size)`` writes them, into folders that are there.
            Both are functions of a module, as they run in other processes.
        common: files of all samples together, if there are any.
    """

    version: int
    counts: Mapping[str, int]
    size: tuple[int, int]
    files: Files
    write: Write
    common: Common | None = None

    def all_files(self, folder: Path, samples: Sequence[tuple[str, int]]) -> Iterator[Path]:
        """Files of these samples, then those of all together."""
        for sample in samples:
            yield from self.files(folder, *sample)
        if self.common is not None:
            yield from self.common.files(folder)
