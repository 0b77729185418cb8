"""Further batches, for methods that look at them: of the training data, or held out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from mtlbench.data import HeldOut
from mtlbench.data.parts import parted
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.errors import UsageError
from mtlbench.interfaces import Batch, Divisible, Further, Task

STREAM = 1
"""Sets the seeds of further batches apart from those of the training's own epochs. Not 0, as a
sequence of seeds is that of the same numbers and zeros behind them."""


class Cycle(Iterator[Batch]):
    """Passes over batches without end, each in an order of its own; goes on where it was saved.

    Args:
        batches: one pass, from a seed of its order.
        seed: of all the orders.
    """

    def __init__(self, batches: Callable[[int], Iterable[Batch]], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._round, self._drawn = -1, 0
        self._rest: Iterator[Batch] = iter(())

    def __next__(self) -> Batch:
        batch = next(self._rest, None)
        if batch is None:
            self._begin(self._round + 1)
            batch = next(self._rest, None)
        if batch is None:
            raise UsageError("a pass over the further batches has none")
        self._drawn += 1
        return batch

    def _begin(self, number: int) -> None:
        order = np.random.SeedSequence((self._seed, number, STREAM)).generate_state(1)[0]
        self._round, self._drawn, self._rest = number, 0, iter(self._batches(int(order)))

    def state_dict(self) -> dict[str, Any]:
        """How far it has come."""
        return {"round": self._round, "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; what the present pass has had is drawn once more."""
        if state["drawn"]:
            self._begin(state["round"])
        for _ in range(state["drawn"]):
            next(self)


class TrainingData:
    """A task's training batches, and those that a method looks at besides.

    Args:
        task: the benchmark.
        further: what the method looks at; None if nothing.
        seed: of the order of further batches.
        ranks: the processes that have a part of every batch.
    """

    def __init__(
        self, task: Task, further: Further | None, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self._ranks = ranks
        self._task, self._count = task, further.count if further else 0
        share = further.held_out if further else 0.0
        self._kept, self._held = HeldOut(share, inside=False), HeldOut(share)
        self._cycle = Cycle(partial(self._pass, self._held), seed)

    def epoch(self, order: int) -> Iterable[Batch]:
        """One pass over what is trained on.

        Raises:
            UsageError: examples are to be held out, and the task's batches cannot be divided.
        """
        return self._pass(self._kept, order)

    def further(self) -> list[Batch]:
        """What a step's method looks at."""
        return [next(self._cycle) for _ in range(self._count)]

    def _pass(self, part: HeldOut, order: int) -> Iterable[Batch]:
        batches = self._task.batches("train", order)
        return parted(self._chosen(batches, part), self._ranks.rank, self._ranks.size)

    def _chosen(self, batches: Iterable[Batch], part: HeldOut) -> Iterable[Batch]:
        if not part.share:
            return batches
        if not isinstance(batches, Divisible):
            raise UsageError(
                f"{part.share:.0%} of the training data are to be held out, and the batches of "
                f"task {self._task.info.name!r} cannot be divided: give them only(choose), as "
                "mtlbench.data.ArrayBatches has it"
            )
        return batches.only(part)

    def state_dict(self) -> dict[str, Any]:
        """How many further batches have been drawn."""
        return self._cycle.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._cycle.load_state_dict(state)
