"""Which seeds the rows of a group are compared on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

Seeds = frozenset[int]


def common_seeds(rows: Mapping[Hashable, Seeds], reference: Hashable | None) -> Seeds:
    """The seeds that the rows of a group have in common, as far as they do.

    Of what each row shares with the reference it is the set that most rows have; of two that as
    many have, the one that more rows contain, and then the larger. A seed that one row has more is
    left out; a row that has one less is compared on those that it has.

    Args:
        rows: row to the seeds that were run.
        reference: the row that the others are measured against, if there is one.
    """
    every = list(rows.values())
    shared = every if reference is None else [seeds & rows[reference] for seeds in every]
    votes = Counter(seeds for seeds in shared if seeds)
    return max(
        votes,
        key=lambda seeds: (votes[seeds], _containing(seeds, shared), len(seeds), sorted(seeds)),
    )


def _containing(seeds: Seeds, rows: Iterable[Seeds]) -> int:
    return sum(seeds <= row for row in rows)


def listed(seeds: Iterable[int]) -> str:
    """``0 1 2``."""
    return " ".join(map(str, sorted(seeds)))
