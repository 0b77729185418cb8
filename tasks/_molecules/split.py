"""Which molecules are for training, validation and testing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlbench.data import SPLITS, load_npz, split_indices

FILE = Path(__file__).parents[1] / "_data" / "qm9_split.npz"
FULL = 130_831
PUBLISHED = (110_831, 10_000, 10_000)
REST = 4
"""Code of the training molecules beyond 110,000."""

Indices = NDArray[np.int64]


@cache
def codes() -> NDArray[np.uint8]:
    """By index in QM9: 0 for one of the uncharacterised molecules and for the index 0, 1 and 4
    train, 2 val, 3 test.

    The file was made by :func:`~mtlbench.data.split_indices` of the molecules in order of their
    index; it settles the split once and for all.
    """
    return load_npz(FILE, ("code",), "It comes with mtlbench: install it again.")["code"]


def is_known(index: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each index is that of one of the 130,831 molecules."""
    within = (index > 0) & (index < len(codes()))
    return within & (codes()[np.where(within, index, 0)] > 0)


def split(index: NDArray[Any], sizes: tuple[int, int, int]) -> dict[str, Indices]:
    """Positions of train, val and test, whatever the order of the molecules.

    All of QM9 is split in the published sizes as the committed file says; everything else by the
    rule of :func:`~mtlbench.data.split_indices`.

    Args:
        index: of each molecule in QM9, all different and known.
        sizes: of train, val and test.
    """
    order = np.argsort(index)
    if len(index) == FULL and tuple(sizes) == PUBLISHED:
        code = codes()[index[order]]
        code[code == REST] = 1
        return {name: order[code == k] for k, name in enumerate(SPLITS, 1)}
    return {name: order[at] for name, at in split_indices(len(index), sizes).items()}
