"""For tasks whose data fit into memory: batches by index, and fixed splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import Batch, InputGroup

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

    def only(self, choose: Callable[[int], Tensor]) -> ArrayBatches:
        """The same of some of the examples; see :class:`~mtlbench.interfaces.Divisible`."""
        chosen = choose(self.n)
        return ArrayBatches(
            lambda index: self.group(chosen[index]), len(chosen), self.batch_size, self.seed
        )

    def part(self, rank: int, size: int) -> Iterator[Batch]:
        """What process ``rank`` of ``size`` has of each batch, of which nothing else is made."""
        for chunk in self._chunks():
            pieces = chunk.tensor_split(size) if len(chunk) >= 2 * size else (chunk,)
            yield [self.group(pieces[rank])] if rank < len(pieces) else []

    def __len__(self) -> int:
        whole, left = divmod(self.n, self.batch_size)
        alone = left == 1 and whole and self.seed is not None
        return whole + (left > 0 and not alone)

    def __iter__(self) -> Iterator[Batch]:
        for chunk in self._chunks():
            yield [self.group(chunk)]

    def _chunks(self) -> Iterator[Tensor]:
        if self.seed is None:
            order = torch.arange(self.n)
        else:
            order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))
        return islice(torch.split(order, self.batch_size), len(self))


def parted(batches: Iterable[Batch], rank: int, size: int) -> Iterable[Batch]:
    """What process ``rank`` of ``size`` has of each batch; together they have all of it.

    Raises:
        UsageError: an input has no parts; see :meth:`~mtlbench.interfaces.InputGroup.parts`.
    """
    if size == 1:
        return batches
    if isinstance(batches, ArrayBatches):
        return batches.part(rank, size)
    return (
        [mine for group in batch if (mine := group.part(rank, size)) is not None]
        for batch in batches
    )


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
