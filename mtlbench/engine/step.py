"""One training step: aggregate, write the gradient, move, advance."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.numerics import compiling
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.restrict import restricted
from mtlbench.engine.views import NonFiniteError
from mtlbench.errors import ContractError
from mtlbench.hardware import to_device
from mtlbench.interfaces import (
    GradientView,
    SharpnessWrapper,
    Update,
    WeightingMethod,
    check_update,
)

NO_LABEL = "no task has a label"


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Args:
        losses: (K,), before the step; NaN for a task without a label; None if one of them was not
            finite.
        weights: (K,), where the method works by weights and the wrapper aggregates once; 0 for a
            task without a label.
        skipped: why the parameters were left alone, empty if they were not.
    """

    losses: Tensor | None
    weights: Tensor | None = None
    skipped: str = ""


def train_step(
    problem: BatchProblem,
    methods: Sequence[WeightingMethod],
    wrapper: SharpnessWrapper,
    optimizer: Optimizer,
    *,
    scale: float = 1.0,
    clip_norm: float | None = None,
) -> StepReport:
    """Aggregate, write the gradient, step the optimizer, let the methods advance.

    A non-finite loss or gradient skips the step: neither parameters nor any state nor running
    statistics move. A task without a label takes no part: its head and what the methods know of it
    stay as they are, and the others' step is what it would be without it.

    Args:
        problem: the step's problem.
        methods: one for each of the wrapper's parts.
        wrapper: where the gradients are taken.
        optimizer: of the model's parameters.
        scale: factor on every aggregate, and on its heads where the method weights them.
        clip_norm: bound of the shared gradient's norm, after ``scale``.

    Raises:
        ContractError: a method returned anything but an update, or was built for another K.
    """
    tasks, n_tasks = problem.flat.tasks, len(problem.flat.all_heads)
    for method in methods:
        if method.n_tasks != n_tasks:
            built = f"was built for {method.n_tasks} tasks"
            raise ContractError(f"{method.info.name} {built}, the step has {n_tasks}")
    if not tasks:
        return StepReport(None, skipped=NO_LABEL)
    with ExitStack() as stack:
        stack.enter_context(compiling())
        for method in methods:
            stack.enter_context(restricted(method, tasks))
        report = _restricted_step(problem, methods, wrapper, optimizer, scale, clip_norm)
    losses = _among_all(report.losses, tasks, n_tasks, float("nan"))
    return replace(report, losses=losses, weights=_among_all(report.weights, tasks, n_tasks, 0.0))


def _restricted_step(
    problem: BatchProblem,
    methods: Sequence[WeightingMethod],
    wrapper: SharpnessWrapper,
    optimizer: Optimizer,
    scale: float,
    clip_norm: float | None,
) -> StepReport:
    """The step of the tasks that take part."""
    flat = problem.flat
    sizes = [part.stop - part.start for part in (flat.shared, *flat.heads)]
    before = [vars(method).copy() for method in methods]

    def skip(losses: Tensor | None, weights: Tensor | None, reason: str) -> StepReport:
        problem.undo_statistics()
        for method, attributes in zip(methods, before, strict=True):
            vars(method).update(attributes)
        return StepReport(losses, weights, reason)

    started = None if flat.data.device.type == "cpu" else problem.generator.get_state()
    try:
        update = _update(problem, wrapper, methods, scale, sizes)
        _write(flat, update, clip_norm)
        weighted = all(method.info.head_policy == "weighted" for method in methods)
        weights = update.weights if weighted else None
        beside = problem.beside.write(None if weights is None else scale * weights)
        (total,) = problem.fetch(sum((g.sum() for g in beside), flat.grad.buffer.sum()))
    except NonFiniteError as error:
        if started is not None:  # the losses were read after the noise was drawn
            problem.generator.set_state(started)
        return skip(None, None, str(error))
    except BaseException:
        skip(None, None, "")
        raise
    if not np.isfinite(total):
        return skip(problem.first_losses, update.weights, "non-finite gradient")
    problem.before_move(update.weights)
    flat.grad.bind()
    optimizer.step()
    after: list[Tensor] = []

    def evaluate() -> Tensor:
        if not after:
            after.append(problem.evaluate())
        return after[0]

    for method in methods:
        method.after_step(evaluate)
    wrapper.after_step()
    torch.clear_autocast_cache()  # the caller's autocast may hold casts of the old parameters
    return StepReport(problem.first_losses, update.weights)


def _update(
    problem: BatchProblem,
    wrapper: SharpnessWrapper,
    methods: Sequence[WeightingMethod],
    scale: float,
    sizes: Sequence[int],
) -> Update:
    """The wrapper's update, after the methods' look at further batches.

    Raises:
        NonFiniteError: a loss is NaN or infinite, also where something else failed for it.
    """
    try:
        for method in methods:
            if method.info.further is not None and problem.can_look:
                method.look(problem)
                problem.flat.reuse_rows()
        return wrapper.update(problem, *(partial(_aggregate, m, scale, sizes) for m in methods))
    except NonFiniteError:
        raise
    except Exception:
        problem.fetch()
        raise


def _among_all(
    values: Tensor | None, tasks: Sequence[int], n_tasks: int, missing: float
) -> Tensor | None:
    """Values of the tasks that take part among those of all."""
    if values is None or len(tasks) == n_tasks:
        return values
    every = values.new_full((n_tasks,), missing)
    return every.index_copy_(0, to_device(torch.as_tensor(tasks), values.device), values)


def _aggregate(
    method: WeightingMethod, scale: float, sizes: Sequence[int], view: GradientView
) -> Update:
    """The method's update at the protocol's scale; unit head gradients are at it already."""
    update = method.aggregate(view)
    check_update(method.info.name, update, view, sizes)
    if scale == 1.0:
        return update
    weighted = method.info.head_policy == "weighted"
    heads = [scale * own for own in update.heads] if weighted else update.heads
    return Update(scale * update.shared, heads, update.weights)


def _write(flat: FlatParameters, update: Update, clip_norm: float | None) -> None:
    """Put an update into the flat gradient; copying a buffer onto itself costs nothing."""
    flat.grad.rows[0].copy_(update.shared)
    for own, new in zip(flat.grad.heads, update.heads, strict=True):
        if new is not own:
            own.copy_(new)
    if clip_norm is not None:
        shared = flat.grad.rows[0]
        shared.mul_((clip_norm / shared.norm()).clamp(max=1.0))
