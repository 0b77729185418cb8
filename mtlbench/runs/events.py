"""What a run tells while it goes on, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Args:
        kind: it made its first "step", or ended an "epoch".
        epoch: how many epochs it has done, over all its phases.
        loss: mean training loss of the epoch that ended, over the tasks; NaN where there is none.
    """

    kind: Literal["step", "epoch"]
    epoch: int = 0
    loss: float = float("nan")


Watch = Callable[[Event], None]
"""Hears of a run's events, in the run's process. It may raise :class:`StoppedError`."""


class StoppedError(Exception):
    """A run was asked to stop: its checkpoint is written, the same command goes on from there."""


def unwatched(event: Event) -> None:
    """Nobody watches."""
