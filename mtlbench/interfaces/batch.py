"""What a step trains on: inputs, targets, losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.hardware import all_to_device
from mtlbench.torch_private import tree_leaves, tree_map


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
    _left: Mapping[str, tuple[Tensor, int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Targets as they were on the host, and the versions of them and of their copies."""

    def to(self, device: torch.device) -> InputGroup:
        """The same group on ``device``.

        Raises:
            UsageError: an input cannot be moved.
        """
        leaves = tree_leaves(self.inputs) if not hasattr(self.inputs, "to") else [self.inputs]
        tensors = [t for t in (*self.targets.values(), *leaves) if isinstance(t, Tensor)]
        there = dict(zip(map(id, tensors), all_to_device(tensors, device), strict=True))
        targets = {name: there[id(target)] for name, target in self.targets.items()}

        def moved(leaf: Any) -> Any:
            if id(leaf) in there:
                return there[id(leaf)]
            if hasattr(leaf, "to"):
                return leaf.to(device)
            if leaf is None or isinstance(leaf, bool | int | float | str):
                return leaf
            raise UsageError(f"inputs of type {type(leaf).__name__} have no method to(device)")

        whole = hasattr(self.inputs, "to")
        inputs = moved(self.inputs) if whole else tree_map(moved, self.inputs)
        group = InputGroup(inputs, targets)
        vars(group)["_left"] = {
            name: (target, target._version, targets[name]._version)
            for name, target in self.targets.items()
            if target.device.type == "cpu" != device.type and not target.is_inference()
        }
        return group

    def part(self, rank: int, size: int) -> InputGroup | None:
        """What process ``rank`` of ``size`` has of the group; None if it has nothing. Less than two
        examples a process are all for the first.

        Raises:
            UsageError: see :meth:`parts`.
        """
        n_examples = min((len(target) for target in self.targets.values()), default=0)
        pieces = self.parts(size) if n_examples >= 2 * size else [self]
        return pieces[rank] if rank < len(pieces) else None

    def parts(self, n: int) -> list[InputGroup]:
        """The group in ``n`` parts of as many examples, or one more; in fewer where it has fewer.

        Raises:
            UsageError: an input is no tensor with a row an example, so that it has no parts.
        """
        sizes = {len(target) for target in self.targets.values() if target.dim()}
        if len(sizes) != 1 or n == 1:
            return [self]
        (n_examples,) = sizes
        n_parts = max(min(n, n_examples), 1)

        def cut(leaf: Any) -> Sequence[Any]:
            if isinstance(leaf, Tensor) and leaf.shape[:1] == (n_examples,):
                return leaf.tensor_split(n_parts)
            if leaf is None or isinstance(leaf, bool | int | float | str):
                return [leaf] * n_parts
            found = f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else ""
            raise UsageError(
                f"accumulate={n}: an input is {found or type(leaf).__name__}, which has no parts; "
                f"tensors with a row for each of the {n_examples} examples do"
            )

        inputs = {id(leaf): cut(leaf) for leaf in tree_leaves(self.inputs)}
        targets = {name: cut(target) for name, target in self.targets.items()}
        made = []
        for i in range(n_parts):
            piece = partial(_piece, inputs, i)
            part = InputGroup(
                tree_map(piece, self.inputs), {name: t[i] for name, t in targets.items()}
            )
            vars(part)["_left"] = {
                name: (before.tensor_split(n_parts)[i], here, there)
                for name, (before, here, there) in self._left.items()
            }
            made.append(part)
        return made

    def with_inputs(self, inputs: Any) -> InputGroup:
        """Other inputs with the same targets."""
        group = InputGroup(inputs, self.targets)
        vars(group)["_left"] = self._left
        return group

    def readable(self, name: str) -> Tensor:
        """A target where its numbers are read without a wait for a device: what it was moved from,
        unless that or the target was written to since."""
        target = self.targets[name]
        before, here, there = self._left.get(name, (target, -1, -1))
        unchanged = before is not target and (before._version, target._version) == (here, there)
        return before if unchanged else target


def _piece(pieces: Mapping[int, Sequence[Any]], i: int, leaf: Any) -> Any:
    return pieces[id(leaf)][i]


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


@runtime_checkable
class SizedLoss(Protocol):
    """A :data:`Loss` that is no mean over the labelled examples says what it is. This is needed
    where a batch lies on several processes, whose parts of a loss are to add up."""

    def size(self, objective: str, target: Tensor) -> float | None:
        """Over how many things of ``target`` the loss is a mean (valid pixels, atoms); None if it
        is a sum over them.

        Args:
            objective: a task that has a label.
            target: of all examples, also of those without a label.

        Raises:
            UsageError: it is neither (a root of a mean, an overlap, a contrast between examples),
                so that there is no such thing as a part of it.
        """


@runtime_checkable
class Divisible(Protocol):
    """Batches that can be had of some of the examples alone."""

    def only(self, choose: Callable[[int], Tensor]) -> Iterable[Batch]:
        """The same of some of the examples, in an order of their own.

        Args:
            choose: number of examples to the indices of those that take part; asked for each
                source of examples apart, where a batch has groups of several.
        """


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
