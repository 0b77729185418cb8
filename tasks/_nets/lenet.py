"""The LeNet of the MultiMNIST experiments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Trunk, vector_gate

KERNELS = {28: 5, 36: 9}
"""Size of images to that of the first convolution's kernel."""
WIDTHS = {28: (28 * 28, 10 * 12 * 12, 20 * 4 * 4), 36: (36 * 36, 10 * 14 * 14, 20 * 5 * 5)}
"""Size of images to the numbers that each stage sees of one."""


def lenet(objectives: Sequence[str], classes: int, features: int, side: int = 28) -> MultiTaskModel:
    """Two convolutions and a linear layer, one linear head an objective.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
        features: width of the trunk's output.
        side: of the images, 28 or 36 pixels.
    """
    shared = nn.Sequential(*chain(*stages(features, side)))
    return MultiTaskModel(shared, {name: nn.Linear(features, classes) for name in objectives})


def trunk(objectives: Sequence[str], classes: int, features: int, side: int = 28) -> Trunk:
    """The same for other ways to share; gates see every number. Arguments as :func:`lenet`'s."""
    return Trunk(
        nn.Identity(),
        lambda: [nn.Sequential(*layers) for layers in stages(features, side)],
        lambda stage, n: vector_gate(WIDTHS[side][stage], n),
        {name: nn.Linear(features, classes) for name in objectives},
    )


def stages(features: int, side: int = 28) -> list[list[nn.Module]]:
    """The trunk's layers: two convolutions and a linear one, each with what follows it."""
    return [
        [nn.Conv2d(1, 10, KERNELS[side]), nn.MaxPool2d(2), nn.ReLU()],
        [nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()],
        [nn.Linear(WIDTHS[side][2], features), nn.ReLU()],
    ]
