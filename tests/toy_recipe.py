"""The toy's made-up data. A module of its own, as the processes that generate import it alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from mtlbench.data import SPLITS
from mtlbench.interfaces import Recipe

KINDS = 3

SECONDS = "TOY_SECONDS"
"""Variable of the environment: how long a sample takes to generate."""


def sample_files(folder: Path, split: str, index: int) -> list[Path]:
    return [folder / split / kind / f"{index}.npy" for kind in ("image", "label")]


def write_sample(folder: Path, split: str, index: int, size: tuple[int, int]) -> None:
    time.sleep(float(os.environ.get(SECONDS, "0")))
    rng = np.random.default_rng([SPLITS.index(split), index])
    image, label = sample_files(folder, split, index)
    np.save(image, rng.random((*size, 3), dtype=np.float32))
    np.save(label, rng.integers(0, KINDS, size))


RECIPE = Recipe(1, {"train": 3, "val": 2, "test": 1}, (4, 6), sample_files, write_sample)
