"""Runs that others handed in, beside those of a leaderboard's own records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mtlbench.boards.places import cell
from mtlbench.runs.record import RunRecord

Origin = Literal["own", "submitted", "verified"]
ORIGINS: tuple[Origin, ...] = ("own", "verified", "submitted")
"""From what is known best to what is known least: a row is what the least of its runs is."""


@dataclass(frozen=True)
class HandedIn:
    """What submissions add to a board.

    Args:
        records: of their rows.
        origins: :func:`~.places.cell` of each to what it is: "verified" if it was run again here,
            within the interval of two draws of its seed; else "submitted".
        bases: what they have of rows that the board has, too: runs of the baseline, which step
            times of the same machine are divided by and nothing else.
    """

    records: list[RunRecord] = field(default_factory=list)
    origins: Mapping[tuple[Any, ...], Origin] = field(default_factory=dict)
    bases: list[RunRecord] = field(default_factory=list)

    def origin(self, record: RunRecord) -> Origin:
        """Of a run; "own" of what was not handed in."""
        return self.origins.get(cell(record), "own")


NOTHING = HandedIn()


def least(origins: Iterable[Origin]) -> Origin:
    """What a row is, of runs that are these."""
    return max(origins, key=ORIGINS.index)
