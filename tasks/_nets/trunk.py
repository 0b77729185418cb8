"""A trunk in stages, which is all that an architecture needs to know of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel

GRID = 4
"""Places along each side of a map that a gate tells apart."""

Features = Tensor | tuple[Any, ...]
"""What a stage returns: a Tensor of features, or that and what is carried along (skip connections,
places of maxima, the images' size)."""


@dataclass(frozen=True)
class Trunk:
    """How the trunk of a network with hard sharing is made.

    Args:
        stem: what all that follows sees the output of, once for all.
        stages: makes the stages of one trunk anew, each called with what the one before returned.
        gate: ``gate(stage, n)`` makes n numbers an example, (B, n), of what that stage is called
            with.
        heads: objective name to what follows the last stage.
    """

    stem: nn.Module
    stages: Callable[[], Sequence[nn.Module]]
    gate: Callable[[int, int], nn.Module]
    heads: Mapping[str, nn.Module]

    def whole(self) -> nn.Module:
        """One trunk behind the stem."""
        return nn.Sequential(*self.stages())


class ByTask(MultiTaskModel):
    """A network whose trunk takes, and runs the parts of, the objectives that are asked for. See
    :class:`MultiTaskModel` for the arguments."""

    def features(
        self,
        inputs: Any,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> Any:
        return self.shared(inputs, objectives, before_part)


class Pick(nn.Module):
    """One objective's entry of what the trunk returns."""

    def __init__(self, objective: str) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, features: Mapping[str, Features]) -> Features:
        return features[self.objective]


def picking(heads: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Heads on their own entries of what the trunk returns."""
    return {name: nn.Sequential(Pick(name), head) for name, head in heads.items()}


# ------------------------------------------------------------------------------------ features
def tensor_of(features: Features) -> Tensor:
    """Features without what they carry along."""
    return features if isinstance(features, Tensor) else cast(Tensor, features[0])


def carrying(x: Tensor, like: Features) -> Features:
    """Features with what others carry along."""
    return x if isinstance(like, Tensor) else (x, *like[1:])


def mixed(shares: Tensor, features: Sequence[Features]) -> Features:
    """Of every example the sum of n features in its own shares.

    Args:
        shares: (B, n).
        features: n of them, of B examples each; what the last one carries is carried on.
    """
    stacked = torch.stack([tensor_of(f) for f in features], 1)
    wide = shares.view(*shares.shape, *(1,) * (stacked.dim() - 2))
    return carrying((wide * stacked).sum(1), features[-1])


def across(matrix: Tensor, features: Sequence[Features]) -> list[Features]:
    """Sums of n features, one a row of the matrix (n, n); each carries on what it did."""
    sums = torch.tensordot(matrix, torch.stack([tensor_of(f) for f in features]), dims=1)
    return [carrying(x, own) for x, own in zip(sums, features, strict=True)]


# ------------------------------------------------------------------------------------ gates
def vector_gate(width: int, n: int) -> nn.Module:
    """A linear layer on features of this width, flattened."""
    return nn.Sequential(nn.Flatten(), nn.Linear(width, n))


def map_gate(channels: int, n: int) -> nn.Module:
    """A linear layer on a map's means over :data:`GRID` x :data:`GRID` places: maps may have any
    size."""
    return nn.Sequential(
        Bare(), nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(channels * GRID**2, n)
    )


class Bare(nn.Module):
    """Features without what they carry along."""

    def forward(self, features: Features) -> Tensor:
        return tensor_of(features)
