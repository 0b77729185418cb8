"""Networks for tables of numbers and names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Trunk, vector_gate

WIDEST = 8
"""Of an embedding."""


class Embedded(nn.Module):
    """Rows of numbers and codes, (B, n_numbers + C), with an embedding for every code.

    Args:
        n_numbers: columns that are passed on.
        n_codes: number of values of each of the C columns after them.
    """

    def __init__(self, n_numbers: int, n_codes: Sequence[int]) -> None:
        super().__init__()
        self.n_numbers = n_numbers
        self.tables = nn.ModuleList(nn.Embedding(n, min(WIDEST, (n + 1) // 2)) for n in n_codes)
        self.width = n_numbers + sum(min(WIDEST, (n + 1) // 2) for n in n_codes)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, width)."""
        codes = rows[:, self.n_numbers :].long().unbind(1)
        found = [table(c) for table, c in zip(self.tables, codes, strict=True)]
        return torch.cat([rows[:, : self.n_numbers], *found], 1)


def layers(widths: Sequence[int], dropout: float) -> list[nn.Module]:
    """Linear layers, each with a rectifier and dropout behind it."""
    return [
        nn.Sequential(nn.Linear(n, m), nn.ReLU(), nn.Dropout(dropout)) for n, m in pairwise(widths)
    ]


def score(width: int) -> nn.Sequential:
    """A head: features (B, width) to one number each, (B,)."""
    return nn.Sequential(nn.Linear(width, 1), nn.Flatten(0))


def mlp(
    stem: Embedded, widths: Sequence[int], dropout: float, objectives: Sequence[str]
) -> MultiTaskModel:
    """A layer for every width behind the stem, one linear head an objective."""
    shared = nn.Sequential(stem, *layers([stem.width, *widths], dropout))
    return MultiTaskModel(shared, {name: score(widths[-1]) for name in objectives})


def trunk(
    stem: Embedded, widths: Sequence[int], dropout: float, objectives: Sequence[str]
) -> Trunk:
    """The same for other ways to share: the embeddings are common to all."""
    every = [stem.width, *widths]
    return Trunk(
        stem,
        lambda: layers(every, dropout),
        lambda stage, n: vector_gate(every[stage], n),
        {name: score(widths[-1]) for name in objectives},
    )
