"""Files of weights: reading them, and beginning with a trunk from one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel

logger = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in a file.

    Raises:
        UsageError: the file is missing, or holds no state dict.
    """
    if not path.is_file():
        raise UsageError(f"there is no file of weights at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own for a broken file
        reason = str(error).partition("\n")[0]
        raise UsageError(f"weights {path} cannot be read: {reason}") from error
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"weights {path}: expected a state dict, names to tensors")
    return tensors


def load_trunk(model: MultiTaskModel, path: Path) -> None:
    """Load into the trunk what a file has of its tensors, by name; the others stay as they are.

    Args:
        model: whose ``shared`` gets them.
        path: a state dict written by ``torch.save``.

    Raises:
        UsageError: the file is no state dict, has nothing of the trunk, or another shape of it.
    """
    found, own = read_state(path), model.shared.state_dict()
    common = {name: value for name, value in found.items() if name in own}
    if not common:
        raise UsageError(
            f"weights {path}: no name is one of the trunk's; "
            f"the file has {_some(found)}, the trunk {_some(own)}"
        )
    misfits = [
        f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in common.items()
        if value.shape != own[name].shape
    ]
    if misfits:
        raise UsageError(f"weights {path} have other shapes than the trunk: {'; '.join(misfits)}")
    model.shared.load_state_dict(common, strict=False)
    left = [name for name in own if name not in common]
    unused = [name for name in found if name not in common]
    logger.info("%s: not loaded %s; not in the file %s", path, _some(unused), _some(left))


def _some(names: Iterable[str]) -> str:
    """The first names, and how many there are."""
    first, *rest = [*names] or ["nothing"]
    shown = ", ".join([first, *rest[:4]])
    return f"{shown}, ... ({1 + len(rest)} in all)" if len(rest) > 4 else shown
