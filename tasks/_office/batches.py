"""Batches of several domains: a group a domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mtlbench.data.batches import Finish, NumberedBatches
from mtlbench.interfaces import Batch, InputGroup

Group = Callable[[int, Tensor, int | None], InputGroup]
"""``group(k, index, draw)``: these examples of domain k, changed at random, by this number, if
there is one."""
DRAWS = 2**31


class DomainBatches(NumberedBatches):
    """Batches with a group for each of K domains of uneven sizes.

    With a seed, the longest domain sets the epoch: each of its examples is seen once, in batches
    as even as can be, and the other domains are shuffled anew whenever they run out. Without,
    each example of each domain is seen once, in order, and a batch has groups only of the domains
    that have examples left.

    Args:
        group: makes a group.
        sizes: number of examples of each domain.
        batch_size: the most examples in a group.
        seed: of the order and of what ``group`` is given; None for the examples as they are.
        finish: see :class:`NumberedBatches`.
    """

    def __init__(
        self,
        group: Group,
        sizes: Sequence[int],
        batch_size: int,
        seed: int | None,
        finish: Finish | None = None,
    ) -> None:
        super().__init__(finish)
        self.group = group
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed

    def only(self, choose: Callable[[int], Tensor]) -> DomainBatches:
        """The same of some of each domain's examples."""
        chosen = [choose(n) for n in self.sizes]

        def group(k: int, index: Tensor, draw: int | None) -> InputGroup:
            return self.group(k, chosen[k][index], draw)

        sizes = list(map(len, chosen))
        return DomainBatches(group, sizes, self.batch_size, self.seed, self.finish)

    def __len__(self) -> int:
        return -(-max(self.sizes) // self.batch_size)

    def fetch(self, number: int) -> Batch:
        return [self.group(k, index, draw) for k, index, draw in self._plan[number]]

    @cached_property
    def _plan(self) -> Sequence[Sequence[tuple[int, Tensor, int | None]]]:
        """Of each batch: domains, which of their examples, and a number for each group."""
        domains = [k for k, n in enumerate(self.sizes) if n]
        if self.seed is None:
            in_order = {k: torch.arange(self.sizes[k]).split(self.batch_size) for k in domains}
            return [
                [(k, own[number], None) for k, own in in_order.items() if number < len(own)]
                for number in range(len(self))
            ]
        generator = torch.Generator().manual_seed(self.seed)
        orders = [self._cycled(self.sizes[k], generator).tensor_split(len(self)) for k in domains]
        draws = torch.randint(DRAWS, (len(self), len(domains)), generator=generator).tolist()
        return [
            list(zip(domains, batch, draw, strict=True))
            for batch, draw in zip(zip(*orders, strict=True), draws, strict=True)
        ]

    def _cycled(self, n: int, generator: torch.Generator) -> Tensor:
        """Permutations of n examples, one after the other, to the length of the longest domain."""
        longest = max(self.sizes)
        rounds = [torch.randperm(n, generator=generator) for _ in range(-(-longest // n))]
        return torch.cat(rounds)[:longest]
