"""Folders of one array a file, as MTAN's preprocessed data sets come: ``<kind>/<i>.npy``."""

from __future__ import annotations

import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.data import reading, refuse
from mtlbench.interfaces import Fault

Size = tuple[int, int]
"""Height and width of an image."""

UNIT_TOLERANCE = 0.02
UNREADABLE = (OSError, EOFError, OverflowError, SyntaxError, ValueError, tokenize.TokenError)


@dataclass(frozen=True)
class Kind:
    """One array of a sample, (H, W) or (H, W, channels).

    Args:
        folder: where its files are.
        channels: 0 for an array of class ids.
        low: least value.
        high: greatest value.
        unit: whether each pixel is a vector of length one, or zero.
    """

    folder: str
    channels: int
    low: float
    high: float
    unit: bool = False

    def shapes(self, size: Size) -> list[tuple[int, ...]]:
        """The shapes that an array may have: a single channel may go unsaid."""
        return [size] * (self.channels < 2) + [(*size, self.channels)] * (self.channels > 0)

    def faults(self, array: NDArray[Any], size: Size) -> Iterator[str]:
        """What keeps an array from being used."""
        kinds = "f" if self.channels else "fiu"
        if array.dtype.kind not in kinds:
            wanted = "numbers" if "i" in kinds else "floating-point numbers"
            yield f"has the dtype {array.dtype}: expected {wanted}"
            return
        if array.shape not in self.shapes(size):
            shapes = " or ".join(map(str, self.shapes(size)))
            yield f"has the shape {array.shape}: expected {shapes}"
        finite = np.isfinite(array)
        if not finite.all():
            yield f"has {np.count_nonzero(~finite):,} values that are not finite"
        values = array[finite]
        outside = values[(values < self.low) | (values > self.high)]
        if outside.size:
            found = f"has {outside.size:,} values from {outside.min():g} to {outside.max():g}"
            yield f"{found}: expected {self.low:g} to {self.high:g}"
        if not self.channels and (values % 1).any():
            yield "has values that are no class ids: expected whole numbers"

    def oddities(self, array: NDArray[Any], size: Size) -> Iterator[str]:
        """What is not as it should be and does no harm: vectors are brought to unit length."""
        if self.unit and array.shape in self.shapes(size):
            length = np.linalg.norm(array.astype(np.float64), axis=-1)
            odd = np.count_nonzero((np.abs(length - 1) > UNIT_TOLERANCE) & (length > 0))
            if odd:
                yield f"has {odd:,} vectors whose length is neither 1 nor 0"


@dataclass(frozen=True)
class Samples:
    """Samples of a folder; their files are read when they are asked for.

    Args:
        folder: of one split.
        kinds: name to the array of this name.
        ids: names of the samples' files, without their ending.
        size: of every image.
    """

    folder: Path
    kinds: Mapping[str, Kind]
    ids: Sequence[int]
    size: Size

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, positions: Sequence[int] | NDArray[np.int64]) -> Samples:
        """The samples at these positions."""
        return replace(self, ids=[self.ids[i] for i in positions])

    def path(self, name: str, i: int) -> Path:
        """The file of the sample with this id."""
        return self.folder / self.kinds[name].folder / f"{i}.npy"

    def read(self, name: str, positions: Sequence[int]) -> Tensor:
        """An array of the samples at these positions: (n, H, W) int64 or (n, channels, H, W)."""
        arrays = [self._load(self.path(name, self.ids[i])) for i in positions]
        if not self.kinds[name].channels:
            return torch.from_numpy(np.stack(arrays).astype(np.int64))
        stacked = np.stack([a.reshape(*self.size, -1) for a in arrays]).astype(np.float32)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def _load(path: Path) -> NDArray[Any]:
        reading(path)
        loaded: NDArray[Any] = np.load(path)
        return loaded

    def faults(self, *, odd: bool) -> Iterator[Fault]:
        """What is wrong with the samples' files.

        Args:
            odd: whether to tell also what does no harm.
        """
        for name, kind in self.kinds.items():
            for i in self.ids:
                array, unreadable = _read(self.path(name, i))
                found = [unreadable] if unreadable else [*kind.faults(array, self.size)]
                if odd and not found:
                    found += kind.oddities(array, self.size)
                yield from (Fault(self.path(name, i), what) for what in found)


def scan(folder: Path, kinds: Mapping[str, Kind]) -> tuple[Samples, list[Fault]]:
    """The samples of a folder, and what is wrong with the names of its files."""
    faults, found = [], set()
    for kind in kinds.values():
        files = folder / kind.folder
        names = sorted(path.stem for path in files.glob("*.npy"))
        if not names:
            faults.append(Fault(files, "is missing or empty: expected files 0.npy, 1.npy, ..."))
        strays = [name for name in names if not name.isdecimal() or name != str(int(name))]
        faults += [Fault(files / f"{name}.npy", "has no number for a name") for name in strays]
        found |= {int(name) for name in names if name not in strays}
    ids = sorted(found)
    gap = next((i for i, other in enumerate(ids) if i != other), None)
    if gap is not None:
        faults.append(Fault(folder, f"has no sample {gap} but a sample {ids[-1]}"))
    image = folder / next(iter(kinds.values())).folder
    return Samples(folder, kinds, ids, _common_size(image / f"{i}.npy" for i in ids)), faults


def open_samples(folder: Path, kinds: Mapping[str, Kind], source: str) -> Samples:
    """The samples of a folder.

    Args:
        source: how to get the data set, for the message of an error.

    Raises:
        DataError: a folder is missing, or the samples are not numbered from 0 on.
    """
    samples, faults = scan(folder, kinds)
    refuse(faults, source)
    return samples


def _common_size(images: Iterator[Path]) -> Size:
    """Height and width of most images."""
    sizes: Counter[Size] = Counter()
    for path in images:
        try:
            shape = np.lib.format.open_memmap(path, mode="r").shape
        except UNREADABLE:
            continue
        if len(shape) > 1:
            sizes[shape[0], shape[1]] += 1
    return max(sizes, key=sizes.__getitem__, default=(0, 0))


def _read(path: Path) -> tuple[NDArray[Any], str]:
    """An array, and why it cannot be read."""
    nothing = np.empty(0)
    if not path.is_file():
        return nothing, "is missing"
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file), ""
    except UNREADABLE as error:
        return nothing, f"cannot be read ({error}): expected a NumPy array"
