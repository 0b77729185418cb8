"""The scales of torchvision's residual networks, as stages."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

BASIC = (64, 64, 128, 256)
"""Channels that each scale but the first sees, of a network of basic blocks."""
BOTTLENECK = (64, 256, 512, 1024)
"""The same of bottlenecks."""
SCALES = ("layer1", "layer2", "layer3", "layer4")


def entry_of(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    """What comes before the first scale."""
    return nn.Sequential(*(layers[name] for name in ("conv1", "bn1", "relu", "maxpool")))


def exit_of(layers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """What comes after the last scale."""
    names = list(layers)
    return [layers[name] for name in names[names.index(SCALES[-1]) + 1 :]]


def resnet_stages(layers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The entry and four scales, the last one with what follows it.

    Args:
        layers: of the network by torchvision's names, and what is to follow them.
    """
    *scales, last = (layers[name] for name in SCALES)
    return [entry_of(layers), *scales, nn.Sequential(last, *exit_of(layers))]
