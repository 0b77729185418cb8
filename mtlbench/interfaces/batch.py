"""What a step trains on: inputs, targets, losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputGroup:
    """Inputs shared by the objectives in ``targets``.

    Args:
        inputs: a Tensor, or any object with a ``to(device)`` method (a ``torch_geometric`` batch).
        targets: objective name to target.
    """

    inputs: Any
    targets: Mapping[str, Tensor]

    def to(self, device: torch.device) -> InputGroup:
        """The same group on ``device``."""
        targets = {name: target.to(device) for name, target in self.targets.items()}
        return InputGroup(self.inputs.to(device), targets)


Batch = Sequence[InputGroup]
"""One training batch: one group with K targets (single input), or K groups with one each
(multi-input)."""
Loss = Callable[[str, Any, Tensor], Tensor]
"""``loss(objective, prediction, target)`` returns a scalar."""


class JointLoss(ABC):
    """A :data:`Loss` that is computed for several objectives at once: the engine asks for all that
    a forward pass predicts."""

    @abstractmethod
    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        """Losses (K',), in the order of ``predictions``; each is what the loss of one objective
        would be.

        Args:
            predictions: of one or more objectives.
            targets: of the same ones, of the examples that have a label.
        """

    def __call__(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        """The loss of one objective, a scalar."""
        return self.together({objective: prediction}, {objective: target})[0]
