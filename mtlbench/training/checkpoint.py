"""States of training on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.interfaces import MultiTaskModel


class Checkpoints:
    """The states of one training, each in the place of the last.

    Args:
        path: of the file.
        seconds: least time between two that are offered.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()

    def read(self) -> dict[str, Any]:
        """The state to go on from, on the CPU; empty if there is none.

        What loads it moves what belongs on a device to there, and leaves what does not: an
        optimizer would wait for its count of steps on a device, a parameter tensor at a time.

        Raises:
            UsageError: the file cannot be read.
        """
        if not self.path.exists():
            return {}
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no error type of its own for a broken file
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"checkpoint {self.path} cannot be read ({said}); delete it to start over"
            ) from error
        return state

    def offer(self, state: Callable[[], Any]) -> bool:
        """Write the state if that is due; whether it was."""
        due = time.monotonic() - self._last >= self.seconds
        if due:
            self.write(state())
        return due

    def write(self, state: Any) -> None:
        """Write a state, all of it or nothing."""
        write_state(state, self.path)
        self._last = time.monotonic()


def write_state(state: Any, path: Path) -> None:
    """Write what ``torch.save`` takes, all of it or nothing."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by a name alone, torch hides that a disk is full
            torch.save(state, file)

    write_atomically(path, write)


def keep_model(model: MultiTaskModel, path: Path) -> None:
    """Write a model's weights, on the CPU."""
    state = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    write_state(state, path)
