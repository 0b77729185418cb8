"""The LeNet of the MultiMNIST experiments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import nn

from mtlbench.interfaces import MultiTaskModel

INPUTS = 28 * 28


def lenet(objectives: Sequence[str], classes: int, features: int) -> MultiTaskModel:
    """Two convolutions and a linear layer for 28 x 28 images, one linear head an objective.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
        features: width of the trunk's output.
    """
    trunk = nn.Sequential(*chain(*stages(features)))
    return MultiTaskModel(trunk, {name: nn.Linear(features, classes) for name in objectives})


def stages(features: int) -> list[list[nn.Module]]:
    """The trunk's layers: two convolutions and a linear one, each with what follows it."""
    return [
        [nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()],
        [nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()],
        [nn.Linear(320, features), nn.ReLU()],
    ]
