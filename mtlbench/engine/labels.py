"""Partial labels: what a batch knows of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
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
        alike: dict[tuple[torch.Size, torch.dtype], list[str]] = {}
        for name, target in targets.items():
            alike.setdefault((target.shape, target.dtype), []).append(name)
        known = [_rows([targets[name] for name in names]) for names in alike.values()]
        counts = torch.cat([rows.sum(1) for rows in known]).tolist() if known else []
        found = dict(zip(chain.from_iterable(alike.values()), counts, strict=True))
        self.counts = {name: found[name] for name in targets}
        """How many examples have a label."""
        self._known = {
            name: rows[i].nonzero().squeeze(1)
            for names, rows in zip(alike.values(), known, strict=True)
            for i, name in enumerate(names)
            if found[name] < rows.size(1)
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

    def pick_all(
        self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """:meth:`pick` for each of ``predictions``, which are returned as they are where nothing is
        missing."""
        if self._known.keys().isdisjoint(predictions):
            return predictions, targets
        picked = {name: self.pick(name, p, targets[name]) for name, p in predictions.items()}
        return {name: p for name, (p, _) in picked.items()}, {
            name: target for name, (_, target) in picked.items()
        }


def _rows(targets: Sequence[Tensor]) -> Tensor:
    """Which examples have a label, for targets of one shape: (targets, examples)."""
    together = torch.stack(list(targets)) if len(targets) > 1 else targets[0].unsqueeze(0)
    known = labelled(together)
    return known.flatten(2).any(2) if known.dim() > 2 else known.reshape(len(targets), -1)
