"""How long something will take, from how long the first part of it took."""

from __future__ import annotations

import time


class Pace:
    """Time to go.

    Args:
        total: of the whole work, in any unit.
    """

    def __init__(self, total: float) -> None:
        self._left, self._done, self._start = total, 0.0, time.monotonic()

    def advance(self, work: float) -> None:
        """So much of the work is done."""
        self._done, self._left = self._done + work, self._left - work

    def drop(self, work: float) -> None:
        """So much of the work need not be done after all."""
        self._left -= work

    @property
    def to_go(self) -> str:
        """``"; about 12 min to go"``; nothing where that is not known or a few seconds."""
        if self._done <= 0:
            return ""
        seconds = (time.monotonic() - self._start) * self._left / self._done
        return f"; about {duration(seconds)} to go" if seconds >= 5 else ""


def duration(seconds: float) -> str:
    """To two digits at most: ``40 s``, ``12 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
