"""For tasks whose data fit into memory: batches by index, fixed splits, arrays from a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import DataError, UsageError
from mtlbench.interfaces import Batch, Fault, InputGroup

SPLITS = ("train", "val", "test")


class ArrayBatches:
    """Single-input batches of ``n`` examples that are reached by index.

    Iterating again gives the same batches again. A single example that is left over from a shuffled
    pass sits it out: batch normalisation has nothing to compare it with.

    Args:
        group: makes the group of the examples with these indices, an int64 Tensor.
        n: number of examples.
        batch_size: examples in a batch; the last batch may be smaller.
        seed: of the order; None for the examples' own.
    """

    def __init__(
        self, group: Callable[[Tensor], InputGroup], n: int, batch_size: int, seed: int | None
    ) -> None:
        self.group = group
        self.n = n
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        whole, left = divmod(self.n, self.batch_size)
        alone = left == 1 and whole and self.seed is not None
        return whole + (left > 0 and not alone)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            order = torch.arange(self.n)
        else:
            order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))
        for chunk in islice(torch.split(order, self.batch_size), len(self)):
            yield [self.group(chunk)]


def check_split(split: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        UsageError: ``split`` is none of :data:`SPLITS`.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; valid: {', '.join(SPLITS)}")


def split_indices(n: int, sizes: Sequence[int], seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Disjoint indices of train, val and test; a fixed rule, the same for every run.

    Args:
        n: number of examples.
        sizes: wanted sizes of the three; scaled down alike where ``n`` is less than their sum.
        seed: of the permutation that is cut; a constant of the task.
    """
    share = min(1.0, n / sum(sizes))
    val, test = (int(size * share) for size in sizes[1:])
    train = min(sizes[0], n - val - test)
    order = np.random.default_rng(seed).permutation(n)[: train + val + test]
    return dict(zip(SPLITS, np.split(order, [train, train + val]), strict=True))


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
