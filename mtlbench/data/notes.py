"""What a process reads at the moment, where another can see it: it may be what the process dies
of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

_NUMBER = 8
SLOT = 4096
"""Bytes of a process: its number, and the path."""


@dataclass
class _Notes:
    """Where this process leaves its notes, if anybody wants them."""

    slots: mmap | None = None
    start: int = 0


_notes = _Notes()


def note_in(slots: mmap, number: int) -> None:
    """From now on :func:`reading` of this process writes to one of the slots."""
    _notes.slots, _notes.start = slots, number * SLOT
    slots[_notes.start : _notes.start + _NUMBER] = os.getpid().to_bytes(_NUMBER, "little")


def reading(path: Path | str) -> None:
    """Say that this process is about to read a file."""
    if _notes.slots is not None:
        said = os.fsencode(path)[: SLOT - _NUMBER - 1] + b"\0"
        start = _notes.start + _NUMBER
        _notes.slots[start : start + len(said)] = said


def read_by(slots: mmap, process: int | None) -> str:
    """The file that the process with this number has read last; empty if it said nothing."""
    for start in range(0, len(slots), SLOT):
        if int.from_bytes(slots[start : start + _NUMBER], "little") == process:
            text = slots[start + _NUMBER : start + SLOT]
            return os.fsdecode(text[: text.index(b"\0")])
    return ""
