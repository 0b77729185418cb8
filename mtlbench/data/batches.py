"""Batches by number, of examples by index; fixed splits; images as bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import Batch, InputGroup

SPLITS = ("train", "val", "test")
LEVELS = 255.0
Finish = Callable[[Any], Any]
"""Inputs as they are fetched, such as bytes, to inputs as a network takes them."""


class NumberedBatches(ABC):
    """Batches that can be fetched one by one: ahead of time, by any process, in any order.

    Iterating gives them in order and finished, and the same ones again each time.

    Args:
        finish: what is left to do with a group's inputs once they are fetched, on the device where
            they are used; None if nothing is.
    """

    def __init__(self, finish: Finish | None = None) -> None:
        self.finish = finish

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches."""

    @abstractmethod
    def fetch(self, number: int) -> Batch:
        """A batch with its inputs unfinished, on the host; the same whenever it is asked for."""

    def finished(self, batch: Batch) -> Batch:
        """A batch that was fetched, with its inputs as a network takes them."""
        if self.finish is None:
            return batch
        return [group.with_inputs(self.finish(group.inputs)) for group in batch]

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            yield self.finished(self.fetch(number))


class ArrayBatches(NumberedBatches):
    """Single-input batches of ``n`` examples that are reached by index.

    A single example that is left over from a shuffled pass sits it out: batch normalisation has
    nothing to compare it with.

    Args:
        group: makes the group of the examples with these indices, an int64 Tensor.
        n: number of examples.
        batch_size: examples in a batch; the last batch may be smaller.
        seed: of the order; None for the examples' own.
        finish: see :class:`NumberedBatches`.
    """

    def __init__(
        self,
        group: Callable[[Tensor], InputGroup],
        n: int,
        batch_size: int,
        seed: int | None,
        finish: Finish | None = None,
    ) -> None:
        super().__init__(finish)
        self.group = group
        self.n = n
        self.batch_size = batch_size
        self.seed = seed

    def only(self, choose: Callable[[int], Tensor]) -> ArrayBatches:
        """The same of some of the examples; see :class:`~mtlbench.interfaces.Divisible`."""
        chosen = choose(self.n)
        return ArrayBatches(
            lambda index: self.group(chosen[index]),
            len(chosen),
            self.batch_size,
            self.seed,
            self.finish,
        )

    def __len__(self) -> int:
        whole, left = divmod(self.n, self.batch_size)
        alone = left == 1 and whole and self.seed is not None
        return whole + (left > 0 and not alone)

    @cached_property
    def _order(self) -> Tensor:
        if self.seed is None:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))

    def fetch(self, number: int) -> Batch:
        start = number * self.batch_size
        return [self.group(self._order[start : start + self.batch_size])]


class Normalize:
    """Images of bytes as numbers: a 255th of them, less a mean, in units of a deviation.

    The same numbers on every device: torch divides by a tensor, where for a plain number a GPU
    would multiply by the rounded inverse.

    Args:
        mean: of each channel, (channels, 1, 1); None for 0.
        std: of each channel, (channels, 1, 1); None for 1.
    """

    def __init__(self, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        self._constants = torch.tensor(LEVELS), mean, std
        self._there: dict[torch.device, tuple[Tensor, Tensor | None, Tensor | None]] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Of (n, channels, H, W) uint8."""
        device = pixels.device
        if device not in self._there:
            levels, mean, std = self._constants
            mean, std = (None if each is None else each.to(device) for each in (mean, std))
            self._there[device] = levels.to(device), mean, std
        levels, mean, std = self._there[device]
        images = pixels.to(torch.float32, copy=True).div_(levels)
        if mean is not None:
            images.sub_(mean)
        return images if std is None else images.div_(std)


@dataclass(frozen=True)
class HeldOut:
    """Chooses a share of the examples, the same ones for every run, or all the others.

    At least one example is on either side, where there are two.

    Args:
        share: of the examples.
        inside: whether those that are held out are chosen, and not the others.
        seed: of the permutation that is cut; a constant, so that no run sees what another holds
            out.
    """

    share: float
    inside: bool = True
    seed: int = 0

    def __call__(self, n: int) -> Tensor:
        """Indices of the chosen among ``n`` examples, ascending."""
        size = min(max(round(self.share * n), 1), n - 1) if n else 0
        order = np.random.default_rng(self.seed).permutation(n)
        return torch.from_numpy(np.sort(order[:size] if self.inside else order[size:]))


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
