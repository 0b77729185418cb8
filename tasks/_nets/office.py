"""Networks for objects in several domains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain, pairwise

from torch import nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.attention import attention
from mtlbench.tasks._nets.resnet import BASIC, resnet_stages
from mtlbench.tasks._nets.trunk import Trunk, map_gate

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
    return MultiTaskModel(nn.Sequential(_resnet()), _heads(objectives, FEATURES, classes))


def resnet18_trunk(objectives: Sequence[str], classes: int) -> Trunk:
    """The same for other ways to share: a stage for each scale."""
    return Trunk(
        nn.Identity(),
        lambda: resnet_stages(_resnet()),
        lambda stage, n: map_gate((COLOURS, *BASIC)[stage], n),
        _heads(objectives, FEATURES, classes),
    )


def mtan_resnet18(objectives: Sequence[str], classes: int) -> MultiTaskModel:
    """:func:`~mtlbench.tasks._nets.attention.attention` on it."""
    return attention(_resnet(), BASIC, _heads(objectives, FEATURES, classes))


def _resnet() -> OrderedDict[str, nn.Module]:
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
    return layers


def cnn(objectives: Sequence[str], classes: int, *, width: int) -> MultiTaskModel:
    """Four convolutions, each of which halves the map, and the means of its quarters; one linear
    head an objective.

    Groups of channels are normalised, not the batch: a domain has statistics of its own.

    Args:
        objectives: names of the heads.
        classes: outputs of each head.
        width: channels of the first convolution.
    """
    shared = nn.Sequential(*chain(*_cnn_stages(width)))
    return MultiTaskModel(shared, _heads(objectives, 4 * width * GROWTH[-1], classes))


def cnn_trunk(objectives: Sequence[str], classes: int, *, width: int) -> Trunk:
    """The same for other ways to share: a stage for each convolution."""
    inputs = [COLOURS, *(width * factor for factor in GROWTH)]
    return Trunk(
        nn.Identity(),
        lambda: [nn.Sequential(*layers) for layers in _cnn_stages(width)],
        lambda stage, n: map_gate(inputs[stage], n),
        _heads(objectives, 4 * width * GROWTH[-1], classes),
    )


def _cnn_stages(width: int) -> list[list[nn.Module]]:
    sizes = [COLOURS, *(width * factor for factor in GROWTH)]
    stages: list[list[nn.Module]] = [
        [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(GROUPS, outputs),
            nn.ReLU(inplace=True),
        ]
        for inputs, outputs in pairwise(sizes)
    ]
    stages[-1] += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return stages


def _heads(objectives: Sequence[str], features: int, classes: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(features, classes) for name in objectives}
