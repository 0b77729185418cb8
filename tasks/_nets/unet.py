"""A small U-Net for dense prediction on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.segnet import COLOURS, finals_of
from mtlbench.tasks._nets.trunk import Trunk, map_gate

WIDTH = 16
GROWTH = (1, 2, 4, 4)
"""Channels at a half, a quarter, an eighth and a sixteenth of the images' size, in widths."""


def unet(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    width: int = WIDTH,
) -> MultiTaskModel:
    """Encoder-decoder with skip connections after `"U-Net" <https://arxiv.org/abs/1505.04597>`_,
    0.2 M shared parameters.

    The trunk returns features (B, width, H / 2, W / 2); a head is a 3 x 3 convolution, ReLU, a
    1 x 1 convolution and bilinear upsampling to (B, outputs, H, W). Sides are even.

    Departs from the paper: the finest scale is half the images' size, strided convolutions shrink
    the maps, skip connections are added, not concatenated, and there is batch normalisation.

    Args:
        outputs: channels of each objective's prediction.
        finals: what else to apply to an objective's prediction.
        width: channels at the finest scale.
    """
    return MultiTaskModel(UNet(width), _heads(outputs, finals, width))


def unet_trunk(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    width: int = WIDTH,
) -> Trunk:
    """The same for other ways to share: a stage for each scale on the way down and up. Skip
    connections are carried along."""

    def stages() -> list[nn.Module]:
        net = UNet(width)
        up = zip(net.narrow, net.up, strict=True)
        return [*map(Down, net.down), *(Up(*layers) for layers in up)]

    sizes = [width * factor for factor in GROWTH]
    inputs = [COLOURS, *sizes, *reversed(sizes[1:-1])]
    heads = _heads(outputs, finals, width)
    return Trunk(nn.Identity(), stages, lambda stage, n: map_gate(inputs[stage], n), heads)


def _heads(
    outputs: Mapping[str, int], finals: Mapping[str, nn.Module] | None, width: int
) -> dict[str, nn.Module]:
    last = finals_of(outputs, finals)
    return {
        name: nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, n, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *last[name],
        )
        for name, n in outputs.items()
    }


class UNet(nn.Module):
    """Four scales, two convolutions at each but the finest on the way down, one on the way up.

    Args:
        width: channels at the finest scale.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width * factor for factor in GROWTH]
        self.down = nn.ModuleList([_conv(COLOURS, width, stride=2)])
        self.down.extend(
            nn.Sequential(_conv(n, more, stride=2), _conv(more, more))
            for n, more in pairwise(sizes)
        )
        coarse_to_fine = list(pairwise(reversed(sizes)))
        self.narrow = nn.ModuleList(nn.Conv2d(n, fewer, 1) for n, fewer in coarse_to_fine)
        self.up = nn.ModuleList(_conv(fewer, fewer) for _, fewer in coarse_to_fine)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width, H / 2, W / 2).

        Raises:
            UsageError: a side of the images is odd.
        """
        check_even(images)
        x = images.contiguous(memory_format=torch.channels_last)  # a fifth faster on a CPU
        skips = []
        for layers in self.down:
            x = layers(x)
            skips.append(x)
        for narrow, layers, skip in zip(self.narrow, self.up, skips[-2::-1], strict=True):
            size = skip.shape[-2:]
            x = nn.functional.interpolate(narrow(x), size, mode="bilinear")
            x = layers(x + skip)
        return x


def check_even(images: Tensor) -> None:
    """Hold images to what a half of can be doubled again.

    Raises:
        UsageError: a side of the images is odd.
    """
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        raise UsageError(f"images of {height} x {width}: this network needs even sides")


# ------------------------------------------------------------------------------------ stages
Skipping = tuple[Tensor, tuple[Tensor, ...]]
"""A map, and those of the finer scales."""


class Down(nn.Module):
    """One scale on the way down."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor | Skipping) -> Skipping:
        if isinstance(features, Tensor):
            check_even(features)
            x = features.contiguous(memory_format=torch.channels_last)
            return self.layers(x), ()
        x, finer = features
        return self.layers(x), (*finer, x)


class Up(nn.Module):
    """One scale on the way up; the finest one carries nothing on."""

    def __init__(self, narrow: nn.Module, layers: nn.Module) -> None:
        super().__init__()
        self.narrow, self.layers = narrow, layers

    def forward(self, features: Skipping) -> Tensor | Skipping:
        x, (*finer, skip) = features
        size = skip.shape[-2:]
        x = nn.functional.interpolate(self.narrow(x), size, mode="bilinear")
        x = self.layers(x + skip)
        return (x, tuple(finer)) if finer else x


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
