"""What a step trains on: inputs, targets, losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.torch_private import tree_map


@dataclass(frozen=True)
class InputGroup:
    """Inputs shared by the objectives in ``targets``.

    Args:
        inputs: a Tensor, any object with a ``to(device)`` method (a ``torch_geometric`` batch), or
            dicts, lists and tuples of such and of plain values.
        targets: objective name to target.
    """

    inputs: Any
    targets: Mapping[str, Tensor]

    def to(self, device: torch.device) -> InputGroup:
        """The same group on ``device``.

        Raises:
            UsageError: an input cannot be moved.
        """
        targets = {name: target.to(device) for name, target in self.targets.items()}

        def moved(leaf: Any) -> Any:
            if hasattr(leaf, "to"):
                return leaf.to(device)
            if leaf is None or isinstance(leaf, bool | int | float | str):
                return leaf
            raise UsageError(f"inputs of type {type(leaf).__name__} have no method to(device)")

        whole = hasattr(self.inputs, "to")
        return InputGroup(moved(self.inputs) if whole else tree_map(moved, self.inputs), targets)


Batch = Sequence[InputGroup]
"""One training batch: one group with K targets (single input), or K groups with one each
(multi-input)."""
Ignore = Literal["negative", "nothing"] | int | None
"""Which integers of a target are no labels: every "negative" one, "nothing", or this number. None
is "negative", with a warning where that looks like a mistake. NaN never is a label."""
Ignored = Ignore | Mapping[str, Ignore]
"""One rule for all objectives, or rules by objective."""
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
