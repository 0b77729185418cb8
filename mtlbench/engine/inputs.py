"""What a user hands to a step: batches and losses, and what is said where they are none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mtlbench.errors import UsageError


def check_loss(loss: Any, name: str) -> Tensor:
    """One objective's loss.

    Raises:
        UsageError: it is no scalar Tensor.
    """
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return loss
    found = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise UsageError(f"the loss of {name} must be a scalar Tensor, not {found}")


def check_losses(losses: Any, names: Sequence[str]) -> Tensor:
    """What :meth:`~mtlbench.interfaces.JointLoss.together` returned for these objectives.

    Raises:
        UsageError: it is not one loss for each of them.
    """
    if isinstance(losses, Tensor) and losses.shape == (len(names),):
        return losses
    kind = type(losses).__name__
    found = f"one of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else kind
    raise UsageError(f"together() must return a Tensor of shape ({len(names)},), not {found}")


def check_takes_three(loss: Callable[..., Any], error: TypeError) -> None:
    """Why a loss raised a ``TypeError``, where that is how it is called.

    Raises:
        UsageError: it is no function of an objective, a prediction and a target.
    """
    function = loss.forward if isinstance(loss, nn.Module) else loss
    wanted = "loss(objective, prediction, target)"
    if not callable(function):
        raise UsageError(f"the loss must be a function {wanted}, not {type(loss).__name__}")
    try:
        inspect.signature(function).bind("", None, None)
    except TypeError:
        raise UsageError(f"the loss is called as {wanted}: {error}") from error
