"""Batches of several domains: a group a domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from mtlbench.interfaces import Batch, InputGroup

Group = Callable[[int, Tensor, torch.Generator | None], InputGroup]
"""``group(k, index, generator)``: these examples of domain k, changed at random if there is a
generator."""


class DomainBatches:
    """Batches with a group for each of K domains of uneven sizes. Iterating again gives the same.

    With a seed, the longest domain sets the epoch: each of its examples is seen once, in batches
    as even as can be, and the other domains are shuffled anew whenever they run out. Without,
    each example of each domain is seen once, in order, and a batch has groups only of the domains
    that have examples left.

    Args:
        group: makes a group.
        sizes: number of examples of each domain.
        batch_size: the most examples in a group.
        seed: of the order and of what ``group`` draws; None for the examples as they are.
    """

    def __init__(self, group: Group, sizes: Sequence[int], batch_size: int, seed: int | None):
        self.group = group
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed

    def only(self, choose: Callable[[int], Tensor]) -> DomainBatches:
        """The same of some of each domain's examples."""
        chosen = [choose(n) for n in self.sizes]

        def group(k: int, index: Tensor, generator: torch.Generator | None) -> InputGroup:
            return self.group(k, chosen[k][index], generator)

        return DomainBatches(group, list(map(len, chosen)), self.batch_size, self.seed)

    def __len__(self) -> int:
        return -(-max(self.sizes) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            in_order = [torch.arange(n).split(self.batch_size) if n else () for n in self.sizes]
            for batch in zip_longest(*in_order):
                yield [self.group(k, i, None) for k, i in enumerate(batch) if i is not None]
            return
        generator = torch.Generator().manual_seed(self.seed)
        domains = [k for k, n in enumerate(self.sizes) if n]
        orders = [self._cycled(self.sizes[k], generator).tensor_split(len(self)) for k in domains]
        for batch in zip(*orders, strict=True):
            yield [self.group(k, i, generator) for k, i in zip(domains, batch, strict=True)]

    def _cycled(self, n: int, generator: torch.Generator) -> Tensor:
        """Permutations of n examples, one after the other, to the length of the longest domain."""
        longest = max(self.sizes)
        rounds = [torch.randperm(n, generator=generator) for _ in range(-(-longest // n))]
        return torch.cat(rounds)[:longest]
