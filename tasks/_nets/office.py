"""Networks for objects in several domains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from mtlbench.interfaces import MultiTaskModel

COLOURS = 3
FEATURES = 512
GROUPS = 8
GROWTH = (1, 2, 4, 4)
"""Channels at a half, a quarter, an eighth and a sixteenth of the images' size, in widths."""


def resnet18(objectives: Sequence[str], classes: int) -> MultiTaskModel:
    """`ResNet-18 <https://arxiv.org/abs/1512.03385>`_ and a hidden layer, one linear head an
    objective, as in `"LibMTL" <https://arxiv.org/abs/2203.14338>`_.

    Departs from the authors' code: weights are random, nothing is downloaded. Names of the trunk's
    parameters are those of torchvision's ``resnet18``.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
    """
    from torchvision.models import resnet18 as torchvision_resnet18

    layers = OrderedDict(torchvision_resnet18(weights=None).named_children())
    del layers["fc"]
    linear = nn.Linear(FEATURES, FEATURES)
    nn.init.normal_(linear.weight, 0, 0.005)
    nn.init.constant_(linear.bias, 0.1)
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Sequential(
        linear, nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True), nn.Dropout(0.5)
    )
    return MultiTaskModel(nn.Sequential(layers), _heads(objectives, FEATURES, classes))


def cnn(objectives: Sequence[str], classes: int, *, width: int) -> MultiTaskModel:
    """Four convolutions, each of which halves the map, and the means of its quarters; one linear
    head an objective.

    Groups of channels are normalised, not the batch: a domain has statistics of its own.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
        width: channels of the first convolution.
    """
    sizes = [COLOURS, *(width * factor for factor in GROWTH)]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(GROUPS, outputs),
            nn.ReLU(inplace=True),
        ]
    trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return MultiTaskModel(trunk, _heads(objectives, 4 * sizes[-1], classes))


def _heads(objectives: Sequence[str], features: int, classes: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(features, classes) for name in objectives}
