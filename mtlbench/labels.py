"""Partial labels: what a batch knows of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def labelled(target: Tensor) -> Tensor:
    """Which entries of a target are known: NaN, or a negative integer, says that one is not."""
    return ~target.isnan() if target.is_floating_point() else target >= 0


class Labels:
    """The examples of a batch that have a label, by objective.

    Args:
        targets: objective to target, whose first dimension is that of the examples.
    """

    def __init__(self, targets: Mapping[str, Tensor]) -> None:
        rows = {name: _rows(labelled(target)) for name, target in targets.items()}
        counts = torch.stack([r.sum() for r in rows.values()]).tolist() if rows else []
        self.counts = dict(zip(rows, map(int, counts), strict=True))
        """How many examples have a label."""
        self._known = {
            name: r.nonzero().squeeze(1) for name, r in rows.items() if self.counts[name] < len(r)
        }

    def pick(self, objective: str, prediction: Any, target: Tensor) -> tuple[Any, Tensor]:
        """Prediction and target of the examples that have a label.

        A prediction that is no Tensor with a row an example is left whole, and the target with it:
        the task's loss sees what is missing.
        """
        known = self._known.get(objective)
        rowwise = isinstance(prediction, Tensor) and prediction.shape[:1] == target.shape[:1]
        if known is None or not rowwise:
            return prediction, target
        return prediction[known], target[known]


def _rows(known: Tensor) -> Tensor:
    return known.flatten(1).any(1) if known.dim() > 1 else known.reshape(-1)
