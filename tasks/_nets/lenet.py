"""The LeNet of the MultiMNIST experiments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Trunk, vector_gate

WIDTHS = (28 * 28, 10 * 12 * 12, 20 * 4 * 4)
"""Numbers that each stage sees of an image."""


def lenet(objectives: Sequence[str], classes: int, features: int) -> MultiTaskModel:
    """Two convolutions and a linear layer for 28 x 28 images, one linear head an objective.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
        features: width of the trunk's output.
    """
    shared = nn.Sequential(*chain(*stages(features)))
    return MultiTaskModel(shared, {name: nn.Linear(features, classes) for name in objectives})


def trunk(objectives: Sequence[str], classes: int, features: int) -> Trunk:
    """The same for other ways to share; gates see every number. Arguments as :func:`lenet`'s."""
    return Trunk(
        nn.Identity(),
        lambda: [nn.Sequential(*layers) for layers in stages(features)],
        lambda stage, n: vector_gate(WIDTHS[stage], n),
        {name: nn.Linear(features, classes) for name in objectives},
    )


def stages(features: int) -> list[list[nn.Module]]:
    """The trunk's layers: two convolutions and a linear one, each with what follows it."""
    return [
        [nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU()],
        [nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()],
        [nn.Linear(WIDTHS[2], features), nn.ReLU()],
    ]
