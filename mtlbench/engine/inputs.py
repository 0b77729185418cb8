"""What a user hands to a step: batches and losses, and what is said where they are none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.engine.numerics import SCALER
from mtlbench.errors import UsageError
from mtlbench.interfaces import InputGroup, MultiTaskModel


def check_model(model: Any, objectives: Any) -> None:
    """Hold what a Stepper is to train to what it can.

    Raises:
        UsageError: it is no network of trunk and heads, or has no head for an objective.
    """
    if not isinstance(model, MultiTaskModel):
        found = type(model).__name__
        raise UsageError(f"the model must be a MultiTaskModel (trunk and heads), not {found}")
    heads = ", ".join(model.heads)
    if objectives is None:
        return
    if isinstance(objectives, str):
        raise UsageError(f"objectives must be a sequence of names, not the name {objectives!r}")
    names = list(objectives)
    if not names:
        raise UsageError(f"objectives are none; the model's heads: {heads}")
    wrong = [name for name in names if name not in model.heads]
    if wrong:
        raise UsageError(f"no head is called {wrong[0]!r}; heads: {heads}")
    if len(set(names)) < len(names):
        raise UsageError(f"objectives are named twice: {', '.join(names)}")


def check_optimizer(optimizer: Any) -> None:
    """Hold an optimizer to what a step does with it.

    Raises:
        UsageError: it is none, or its ``step`` needs a closure.
    """
    if isinstance(optimizer, torch.amp.GradScaler):
        raise UsageError(SCALER)
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"the optimizer must be torch's, not {type(optimizer).__name__}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{type(optimizer).__name__} evaluates the loss itself; a step's gradient is an "
            "aggregate that belongs to no loss: take an optimizer whose step() needs no closure"
        )


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer."""
    groups = getattr(optimizer, "param_groups", ())
    return [p for group in groups for p in group["params"]]


def as_groups(batch: Any) -> list[Any]:
    """The parts of a batch.

    Raises:
        UsageError: it has none.
    """
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        found = type(batch).__name__
        raise UsageError(f"a batch is an InputGroup, or a sequence of them, not {found}")
    return list(batch)


def check_batch(batch: Any) -> None:
    """Hold a batch to what a step can use.

    Raises:
        UsageError: it is no sequence of input groups with a Tensor for each objective.
    """
    group: Any
    for group in batch:
        if not isinstance(group, InputGroup):
            found = type(group).__name__
            raise UsageError(f"a batch is an InputGroup, or a sequence of them, not of {found}")
        targets: Any = group.targets
        if not isinstance(targets, Mapping):
            found = type(targets).__name__
            raise UsageError(f"targets must be a mapping of objective to Tensor, not {found}")
        for name, target in targets.items():
            if not isinstance(target, Tensor):
                found = type(target).__name__
                raise UsageError(f"the target for {name} must be a Tensor, not {found}")


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
