"""What one of several processes gets of batches."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from mtlbench.data.batches import NumberedBatches
from mtlbench.interfaces import Batch


class _Parts(NumberedBatches):
    """A part of each batch."""

    def __init__(self, whole: NumberedBatches, rank: int, size: int) -> None:
        super().__init__(whole.finish)
        self.whole, self.rank, self.size = whole, rank, size

    def __len__(self) -> int:
        return len(self.whole)

    def fetch(self, number: int) -> Batch:
        return self.whole.fetch_part(number, self.rank, self.size)

    def finished(self, batch: Batch) -> Batch:
        return self.whole.finished(batch)


class _Turns(_Parts):
    """Every so many batches a whole one."""

    def __len__(self) -> int:
        return len(range(self.rank, len(self.whole), self.size))

    def fetch(self, number: int) -> Batch:
        return self.whole.fetch(self.rank + number * self.size)


def parted(batches: Iterable[Batch], rank: int, size: int) -> Iterable[Batch]:
    """A part of each batch for each of ``size`` processes, which together have all of it. One may
    get nothing.

    Raises:
        UsageError: an input has no parts; see :meth:`~mtlbench.interfaces.InputGroup.parts`.
    """
    if size == 1:
        return batches
    if isinstance(batches, NumberedBatches):
        return _Parts(batches, rank, size)
    parts = ([group.part(rank, size) for group in batch] for batch in batches)
    return ([mine for mine in each if mine is not None] for each in parts)


def in_turns(batches: Iterable[Batch], rank: int, size: int) -> Iterable[Batch]:
    """Whole batches: those of process ``rank`` of ``size``."""
    if size == 1:
        return batches
    if isinstance(batches, NumberedBatches):
        return _Turns(batches, rank, size)
    return islice(batches, rank, None, size)
