"""SegNet with a head a task, and what the heads of all networks for dense prediction have in
common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Trunk, map_gate

FILTERS = (64, 128, 256, 512, 512)
"""Channels at each scale as published, from the finest to the coarsest."""

COLOURS = 3
_SHALLOW = 2  # of the finest scales have two convolutions each, the others three


def segnet(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    filters: Sequence[int] = FILTERS,
) -> MultiTaskModel:
    """`"SegNet" <https://arxiv.org/abs/1511.00561>`_ with split heads, as the authors of
    `"End-to-End Multi-Task Learning with Attention" <https://arxiv.org/abs/1803.10704>`_ and many
    after them train it on NYUv2 and Cityscapes.

    The trunk returns the decoder's last feature map (B, filters[0], H, W), a head prediction (B,
    outputs, H, W). Images have sides of 2 ** len(filters), 32 as published, or more.

    Departs from the authors' code: segmentation's log-softmax is left to the loss, loss weights to
    the weighting method; pooled maps grow back to the size they had, so that sides which are no
    multiple of 32 work as well.

    Args:
        outputs: channels of each objective's prediction.
        finals: what else to apply to an objective's prediction (:class:`UnitLength`).
        filters: channels at each scale.
    """
    model = MultiTaskModel(SegNet(filters), dense_heads(filters[0], outputs, finals))
    initialize(model)
    return model


def segnet_trunk(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    filters: Sequence[int] = FILTERS,
) -> Trunk:
    """The same for other ways to share: a stage for each scale of the encoder and the decoder. The
    places of a scale's maxima are carried along."""

    def stages() -> list[nn.Module]:
        net = SegNet(filters)
        initialize(net)
        down = zip(net.entries, net.encoders, strict=True)
        scales = len(filters)
        return [*(Down(scales, *layers) for layers in down), *map(Up, reversed(net.decoders))]

    inputs = [COLOURS, *filters[:-1], *reversed(filters)]
    heads = dense_heads(filters[0], outputs, finals)
    for head in heads.values():
        initialize(head)
    return Trunk(nn.Identity(), stages, lambda stage, n: map_gate(inputs[stage], n), heads)


class UnitLength(nn.Module):
    """Vectors of length 1 along the channels: surface normals.

    Departs from the authors' code: a vector shorter than ``shortest`` is divided by that, so that
    a zero yields neither NaN nor an infinite gradient.
    """

    shortest = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1, eps=self.shortest)


def dense_heads(
    channels: int, outputs: Mapping[str, int], finals: Mapping[str, nn.Module] | None
) -> dict[str, nn.Sequential]:
    """The published heads: a 3 x 3 and a 1 x 1 convolution with nothing between them."""
    last = finals_of(outputs, finals)
    return {
        name: nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, n, 1), *last[name]
        )
        for name, n in outputs.items()
    }


def finals_of(
    outputs: Mapping[str, int], finals: Mapping[str, nn.Module] | None
) -> dict[str, list[nn.Module]]:
    """The last module of every head, as a list of none or one.

    Raises:
        UsageError: a module is for no objective.
    """
    known = finals or {}
    unknown = sorted(set(known) - set(outputs))
    if unknown:
        raise UsageError(f"no objective {unknown[0]!r} to end with; there are {', '.join(outputs)}")
    return {name: [known[name]] if name in known else [] for name in outputs}


def initialize(model: nn.Module) -> None:
    """Convolutions as released: Xavier's normal distribution and no bias. Batch normalisation
    begins with weight 1 and bias 0 as it is."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv_layer(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


@dataclass(frozen=True)
class Stage:
    """One scale of the encoder or the decoder.

    Args:
        entry: of the encoder, after the first convolution; of the decoder, before it.
        output: after the last convolution, before pooling.
    """

    entry: Tensor
    output: Tensor


class SegNet(nn.Module):
    """Encoder and decoder like VGG-16's convolutions, pooling undone at the places of the maxima.

    Args:
        filters: channels at each scale.
    """

    def __init__(self, filters: Sequence[int]) -> None:
        super().__init__()
        finer = [filters[0], *filters[:-1]]
        self.entries = nn.ModuleList(map(conv_layer, [COLOURS, *filters[:-1]], filters))
        self.encoders = nn.ModuleList(_further(n, i) for i, n in enumerate(filters))
        self.decoders = nn.ModuleList(
            nn.Sequential(conv_layer(n, fewer), _further(fewer, i))
            for i, (n, fewer) in enumerate(zip(filters, finer, strict=True))
        )
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def stages(self, images: Tensor) -> tuple[list[Stage], list[Stage]]:
        """Encoder from fine to coarse, decoder from coarse to fine.

        Raises:
            UsageError: the images are too small.
        """
        check_size(images, len(self.entries))
        encoder, decoder, places = list[Stage](), list[Stage](), list[Tensor]()
        x = images
        for entry, further in zip(self.entries, self.encoders, strict=True):
            first = entry(x)
            encoder.append(Stage(first, further(first)))
            x, where = self.pool(encoder[-1].output)
            places.append(where)
        back = zip(reversed(self.decoders), reversed(encoder), reversed(places), strict=True)
        for layers, stage, where in back:
            x = self.unpool(x, where, output_size=stage.output.shape)
            decoder.append(Stage(x, layers(x)))
            x = decoder[-1].output
        return encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, filters[0], H, W)."""
        return self.stages(images)[1][-1].output


def _further(channels: int, scale: int) -> nn.Sequential:
    """The convolutions of a scale after its first."""
    count = 1 if scale < _SHALLOW else 2
    return nn.Sequential(*(conv_layer(channels, channels) for _ in range(count)))


def check_size(images: Tensor, scales: int) -> None:
    """Hold images to what so many scales can halve.

    Raises:
        UsageError: they are too small.
    """
    height, width = images.shape[-2:]
    if min(height, width) < 2**scales:
        raise UsageError(
            f"images of {height} x {width} are too small: SegNet with {scales} "
            f"scales needs sides of {2**scales} or more"
        )


# ------------------------------------------------------------------------------------ stages
Pooled = tuple[Tensor, tuple[tuple[Tensor, torch.Size], ...]]
"""A map, and of every finer scale the places of its maxima and its shape."""


class Down(nn.Module):
    """One scale of the encoder, which has so many of them."""

    def __init__(self, scales: int, entry: nn.Module, further: nn.Module) -> None:
        super().__init__()
        self.scales = scales
        self.layers = nn.Sequential(entry, further)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, features: Tensor | Pooled) -> Pooled:
        if isinstance(features, Tensor):
            check_size(features, self.scales)
            features = features, ()
        x, finer = features
        x = self.layers(x)
        pooled, where = self.pool(x)
        return pooled, (*finer, (where, x.shape))


class Up(nn.Module):
    """One scale of the decoder; the finest one carries nothing on."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, features: Pooled) -> Tensor | Pooled:
        x, (*finer, (where, shape)) = features
        x = self.layers(self.unpool(x, where, output_size=shape))
        return (x, tuple(finer)) if finer else x
