r"""One step on several processes that equals one process with the same global batch.

Process r has :math:`n_{kr}` of the :math:`n_k` things that task k's loss is the mean of, so that

.. math:: L_k = \sum_r \frac{n_{kr}}{n_k} L_{kr}, \qquad
    J_k = \sum_r \frac{n_{kr}}{n_k} \nabla L_{kr}

Each process differentiates its shares of the losses, and the engine asks a :class:`Ranks` for a sum
wherever a number leaves a process's graph. All that follows from those numbers (methods, wrappers,
clipping, what is skipped, the optimizer) is the same everywhere and knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import Loss, SizedLoss


class LostError(RuntimeError):
    """Another process has ended, or does not answer."""


@contextmanager
def _others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostError(f"another process has ended, or does not answer: {reason}") from error


class Ranks:
    """One process alone: nothing is sent, nothing is copied."""

    rank, size = 0, 1
    calls = 0
    """Collectives so far."""
    elements = 0.0
    """Numbers that this process has sent, as a ring of processes sends them."""

    def total(self, values: Sequence[float]) -> list[float]:
        """Numbers of the host, summed."""
        return list(values)

    def sum(self, small: Tensor) -> Tensor:
        """A small tensor (losses, a Gramian), summed; ``small`` stays as it is."""
        return small

    def sum_(self, *tensors: Tensor) -> None:
        """Sum in place, and wait."""

    def start_(self, tensor: Tensor) -> None:
        """Begin to sum in place; ``tensor`` is not to be touched before :meth:`finish`."""

    def spans(self, n: int) -> list[slice]:
        """Which of n columns each process owns: parts as equal as they can be, in their order."""
        ends = [n * (rank + 1) // self.size for rank in range(self.size)]
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    def start_parts_(self, vector: Tensor) -> None:
        """Begin to sum each process's span of a vector to that process; of the other spans nothing
        is known afterwards. Like :meth:`start_` otherwise."""

    def spread_(self, vector: Tensor) -> None:
        """Give every process the spans that the others have."""

    def finish(self, but: int = 0) -> None:
        """Wait for what was begun, but for the last so many."""

    def gather(self, found: Any) -> list[Any]:
        """What each process found, in their order."""
        return [found]

    def agree(self, told: Mapping[str, object]) -> None:
        """Refuse processes that were told different things.

        Raises:
            UsageError: they were; it is the same error on all of them.
        """

    def take_first_(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors the numbers that the first process has."""


ALONE = Ranks()


class ProcessRanks(Ranks):
    """The processes of a ``torch.distributed`` group, each with its part of every batch.

    >>> torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
    >>> stepper = Stepper(model, optimizer, "fairgrad", "samo", ranks=ProcessRanks())

    Where a process has failed, or stalls for longer than the group's ``timeout``, the others raise
    :class:`LostError`.

    Args:
        group: of ``torch.distributed``; by default that of all processes.

    Raises:
        UsageError: there is no such group in this process.
    """

    def __init__(self, group: Any = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise UsageError(
                "several processes need torch.distributed: start with torchrun, and call "
                "torch.distributed.init_process_group() first"
            )
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise UsageError("this process is none of the group's")
        self._pending: list[list[Any]] = []
        self.calls, self.elements = 0, 0.0

    def _count(self, tensor: Tensor, times: int = 2) -> None:
        self.calls += 1
        self.elements += times * tensor.numel() * (self.size - 1) / self.size

    def total(self, values: Sequence[float]) -> list[float]:
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        found = torch.tensor(values, dtype=torch.float64, device=device)
        self.sum_(found)
        return found.tolist()

    def sum(self, small: Tensor) -> Tensor:
        found = small.detach().clone()
        self.sum_(found)
        return found

    def sum_(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            if tensor.numel():
                self._count(tensor)
                with _others():
                    dist.all_reduce(tensor, group=self.group)

    def start_(self, tensor: Tensor) -> None:
        if tensor.numel():
            self._count(tensor)
            with _others():
                work = dist.all_reduce(tensor, group=self.group, async_op=True)
            self._pending.append([work])

    def start_parts_(self, vector: Tensor) -> None:
        self._count(vector, 1)
        with _others():
            works = [
                dist.reduce(own, owner, group=self.group, async_op=True)
                for owner, own in self._parts(vector)
            ]
        self._pending.append(works)

    def spread_(self, vector: Tensor) -> None:
        self._count(vector, 1)
        with _others():
            works: list[Any] = [
                dist.broadcast(own, owner, group=self.group, async_op=True)
                for owner, own in self._parts(vector)
            ]
            for work in works:
                work.wait()

    def _parts(self, vector: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each process, as the default group names it, with its span; none that is empty."""
        for rank, span in enumerate(self.spans(len(vector))):
            if span.start < span.stop:
                yield self._global(rank), vector[span]

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def finish(self, but: int = 0) -> None:
        while len(self._pending) > but:
            works = self._pending.pop(0)
            with _others():
                for work in works:
                    work.wait()

    def gather(self, found: Any) -> list[Any]:
        every: list[Any] = [None] * self.size
        with _others():
            dist.all_gather_object(every, found, self.group)
        return every

    def agree(self, told: Mapping[str, object]) -> None:
        found = self.gather({what: str(said) for what, said in told.items()})
        for what, said in found[0].items():
            for rank, other in enumerate(found):
                if other.get(what) != said:
                    raise UsageError(
                        f"the processes differ in {what}: {said} on rank 0, {other.get(what)} on "
                        f"rank {rank}"
                    )

    def take_first_(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            with _others():
                dist.broadcast(tensor, self._global(0), group=self.group)


@dataclass(frozen=True)
class Shares:
    """What the processes together know of the tasks, and this one's part of it.

    Args:
        counts: labelled examples of each task, on all processes.
        own: this process's share of each task's loss; None if it is alone and has all of them.
    """

    counts: Mapping[str, float]
    own: Mapping[str, float] | None = None

    @classmethod
    def of(
        cls,
        ranks: Ranks,
        objectives: Sequence[str],
        loss: Loss,
        counts: Mapping[str, int],
        targets: Mapping[str, Tensor],
    ) -> Shares:
        """The shares of a batch.

        Args:
            ranks: the processes.
            objectives: the K task names, the same on all of them.
            loss: whose :class:`~mtlbench.interfaces.SizedLoss` says what it is the mean of.
            counts: labelled examples here.
            targets: of this process.

        Raises:
            UsageError: parts of the loss do not add up.
        """
        if ranks.size == 1:
            return cls(counts)
        here = [float(counts.get(name, 0)) for name in objectives]
        sizes = [
            _size(loss, name, targets[name], count) if count else 0.0
            for name, count in zip(objectives, here, strict=True)
        ]
        found = ranks.total([*here, *(0.0 if size is None else size for size in sizes)])
        counted, sized = found[: len(here)], found[len(here) :]
        shares = {}
        columns = zip(objectives, here, counted, sizes, sized, strict=True)
        for name, count, of_counts, size, of_sizes in columns:
            if size is None:  # a sum
                shares[name] = 1.0
            elif of_sizes:
                shares[name] = size / of_sizes
            else:  # a mean of nothing, whatever the loss makes of that
                shares[name] = count / of_counts if of_counts else 0.0
        return cls(dict(zip(objectives, counted, strict=True)), shares)

    def lacks(self, objective: str) -> bool:
        """Whether this process has nothing of a task that takes part."""
        return self.own is not None and not self.own.get(objective)

    def weighted(self, losses: Sequence[Tensor], objectives: Sequence[str]) -> list[Tensor]:
        """Losses of this process, each times its share."""
        shares = {} if self.own is None else self.own
        return [loss * shares[name] for loss, name in zip(losses, objectives, strict=True)]


def _size(loss: Loss, objective: str, target: Tensor, count: float) -> float | None:
    """Of how many things a loss is the mean here; None if it is their sum."""
    asked: Any = loss  # a function, for the type checker
    if not isinstance(asked, SizedLoss):
        return count
    size = asked.size(objective, target)
    return None if size is None else float(size)
