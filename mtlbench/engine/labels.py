"""Partial labels: what a batch knows of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mtlbench.hardware import all_to_device
from mtlbench.interfaces import Ignore, Ignored


def rule_of(ignore: Ignored, objective: str) -> Ignore:
    """An objective's rule."""
    return ignore.get(objective) if isinstance(ignore, Mapping) else ignore


def labelled(target: Tensor, ignore: Ignore = None) -> Tensor:
    """Which entries of a target are known: not NaN, or not an integer that says that one is not,
    see :data:`~mtlbench.interfaces.Ignore`."""
    if target.is_floating_point():
        return ~target.isnan()
    if ignore == "nothing":
        return torch.ones_like(target, dtype=torch.bool)
    return target != ignore if isinstance(ignore, int) else target >= 0


class Labels:
    """The examples of a batch that have a label, by objective.

    An example whose target is a vector of floats has one if all of its entries are known: one NaN
    leaves the example out. Of a sequence of integers, or a map (n, channels, height, width), any
    entry is enough, and the task's loss sees which are missing.

    Args:
        targets: objective to target, whose first dimension is that of the examples; where they can
            be read.
        ignore: which integers are no labels, of all objectives or by objective.
        device: where the predictions are; that of the targets by default.
    """

    def __init__(
        self,
        targets: Mapping[str, Tensor],
        ignore: Ignored = None,
        device: torch.device | None = None,
    ) -> None:
        self._targets, self._ignore = targets, ignore
        alike: dict[tuple[torch.Size, torch.dtype, Ignore], list[str]] = {}
        for name, target in targets.items():
            kind = target.shape, target.dtype, rule_of(ignore, name)
            alike.setdefault(kind, []).append(name)
        known = [
            _rows([targets[name] for name in names], rule) for (_, _, rule), names in alike.items()
        ]
        counts = torch.cat([rows.sum(1) for rows in known]).tolist() if known else []
        found = dict(zip(chain.from_iterable(alike.values()), counts, strict=True))
        self.counts = {name: found[name] for name in targets}
        """How many examples have a label."""
        places = {
            name: rows[i].nonzero().squeeze(1)
            for names, rows in zip(alike.values(), known, strict=True)
            for i, name in enumerate(names)
            if found[name] < rows.size(1)
        }
        if device is not None:
            places = dict(zip(places, all_to_device(list(places.values()), device), strict=True))
        self._known = places

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

    def doubts(self, asked: dict[str, bool]) -> list[str]:
        """What is to be said of objectives that lose integer labels to a rule that nobody chose:
        more than half of a batch, or every -1 of labels that are -1 and 1.

        Args:
            asked: whether something was said of an objective that was asked about before; this is
                noted there.
        """
        said = []
        for name in self._known:
            target, count = self._targets[name], self.counts[name]
            chosen = target.is_floating_point() or rule_of(self._ignore, name) is not None
            if chosen or asked.get(name):
                continue
            signs = name not in asked and count > 0 and bool((target.abs() == 1).all())
            asked[name] = signs or 2 * count < len(target)
            if asked[name]:
                said.append(
                    f"{name}: {len(target) - count} of {len(target)} targets are negative integers "
                    "and count as missing labels; say ignore='nothing' if they are labels, "
                    "ignore='negative' if not"
                )
        return said


def _rows(targets: Sequence[Tensor], ignore: Ignore) -> Tensor:
    """Which examples have a label, for targets of one kind: (targets, examples)."""
    together = torch.stack(list(targets)) if len(targets) > 1 else targets[0].unsqueeze(0)
    known = labelled(together, ignore)
    if known.dim() == 3 and together.is_floating_point():
        return known.all(2)
    return known.flatten(2).any(2) if known.dim() > 2 else known.reshape(len(targets), -1)
