"""States of training on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.interfaces import MultiTaskModel


def write_state(state: Any, path: Path) -> None:
    """Write what ``torch.save`` takes, all of it or nothing."""

    def write(temporary: Path) -> None:
        with temporary.open(
            "wb"
        ) as file:  # by a name alone, torch does not say that a disk is full
            torch.save(state, file)

    write_atomically(path, write)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load has no error type of its own for a broken file
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"checkpoint {path} cannot be read ({said}); delete it to start over"
        ) from error
    return state


def keep_model(model: MultiTaskModel, path: Path) -> None:
    write_state({name: value.cpu().clone() for name, value in model.state_dict().items()}, path)
