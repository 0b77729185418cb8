"""Whether a training is worth a row: what it skipped, what came out as NaN, and what that is of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlbench.errors import DivergedError
from mtlbench.interfaces import InputGroup, Task
from mtlbench.training.history import Phase
from mtlbench.training.trainer import Trainer

MOST_SKIPPED = 0.05
"""Share of a phase's steps that may have a non-finite loss or gradient. A step or two on a bad
batch change a result by less than its seed does; one in twenty is a fault of the data or of the
training, and the row would hide it."""


def check_skips(trainer: Trainer) -> None:
    """Call this after any epoch.

    Raises:
        DivergedError: more steps were skipped than all of the training may.
    """
    epochs = len(trainer.history)
    planned = trainer.stepper.steps * trainer.task.protocol.epochs // max(epochs, 1)
    skipped = sum(trainer.skips.values())
    if skipped > MOST_SKIPPED * planned:
        ((reason, _),) = trainer.skips.most_common(1)
        raise DivergedError(
            f"{skipped} of {planned} steps skipped, more than {MOST_SKIPPED:.0%}: {reason}"
        )


def check_metrics(trainer: Trainer, phase: Phase) -> None:
    """Call this at the end.

    Raises:
        DivergedError: a metric is NaN, of the test data or of the data that epochs are selected on.
    """
    for split in ("test",) if trainer.task.protocol.average_last else ("val", "test"):
        metrics = phase.selected[split].metrics
        bad = [name for name, value in metrics.items() if math.isnan(value)]
        if bad:
            raise DivergedError(
                f"{', '.join(bad)} NaN on {split}{origin(trainer.task, split, phase.objectives)}"
            )


def origin(task: Task, split: str, objectives: Sequence[str]) -> str:
    """What in the data of a split is not finite, for the end of a message; nothing if all is."""
    bad: Counter[str] = Counter()
    n_examples = 0
    for batch in task.batches(split, None):
        for group in batch:
            targets = {k: t for k, t in group.targets.items() if k in objectives}
            for name, rows in _suspects(InputGroup(group.inputs, targets)):
                bad[name] += int(rows.sum())
            n_examples += max((len(t) for t in targets.values()), default=0)
    found = [f"{name} is not finite in {n} examples" for name, n in bad.items() if n]
    return f"; of {n_examples} in {split}, {', '.join(found)}" if found else ""


def _suspects(group: InputGroup) -> Iterator[tuple[str, Tensor]]:
    """What may be non-finite, by name, with the examples in which it is. A target that is NaN is a
    missing label, one that is infinite a fault."""
    for name, values in _tensors("input", group.inputs):
        bad = ~torch.isfinite(values)
        if values.dim() == 2:
            yield from ((f"{name} column {i}", bad[:, i]) for i in range(values.size(1)))
        elif values.dim() > 0:
            yield name, bad.flatten(1).any(1) if values.dim() > 1 else bad
    for name, values in group.targets.items():
        bad = torch.isinf(values)
        yield f"target {name}", bad.flatten(1).any(1) if values.dim() > 1 else bad


def _tensors(name: str, inputs: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a batch's inputs, by name."""
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            yield name, inputs
    elif isinstance(inputs, Mapping) or hasattr(inputs, "to_dict"):
        parts = inputs if isinstance(inputs, Mapping) else inputs.to_dict()
        for key, part in parts.items():
            yield from _tensors(f"{name} {key}", part)
    elif isinstance(inputs, list | tuple):
        for i, part in enumerate(inputs):
            yield from _tensors(f"{name} {i}", part)
