"""Images of a data set, decoded once for all runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.data.kept import Mapped, kept_array
from mtlbench.data.notes import reading
from mtlbench.hardware import cores

AT_A_TIME = 256
"""Images that are in memory while they are decoded."""
MANY = 10_000
"""So many are worth a word, as they take a while."""

logger = logging.getLogger(__name__)


class Decoded:
    """Image files of any sizes as bytes of one shape, decoded when the first is asked for; see
    :func:`~mtlbench.data.kept.kept_array` for where they are kept.

    Args:
        folder: where the files are.
        names: relative paths.
        shape: of every image.
        decode: an image of a file.
        how: what decides the pixels besides, in words.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        shape: tuple[int, ...],
        decode: Callable[[Path], NDArray[np.uint8]],
        how: str,
    ) -> None:
        self.folder, self.names, self.shape = folder, names, shape
        self._decode, self._how = decode, how

    def __len__(self) -> int:
        return len(self.names)

    def __call__(self, index: Tensor) -> Tensor:
        """The images with these indices, (n, *shape) uint8.

        Raises:
            DataError: a file is missing or no image.
        """
        reading(str(self._pixels.filename))
        return torch.from_numpy(np.asarray(self._pixels)[index.numpy()])

    @cached_property
    def _pixels(self) -> Mapped:
        how = f"{self.shape} {self._how}"
        return kept_array(self.folder, self.names, how, self._write)

    def _write(self, file: BinaryIO) -> None:
        if len(self) >= MANY:
            logger.info("decoding %s images of %s, once for all", f"{len(self):,}", self.folder)
        shape = (len(self), *self.shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(self), AT_A_TIME):
                paths = map(self.folder.joinpath, self.names[start : start + AT_A_TIME])
                for image in pool.map(self._decode, paths):
                    file.write(image.tobytes())
