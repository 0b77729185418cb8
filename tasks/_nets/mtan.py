"""MTAN: attention on SegNet's features, a soft mask a task at every scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import starmap

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.segnet import (
    FILTERS,
    SegNet,
    Stage,
    conv_layer,
    dense_heads,
    initialize,
)
from mtlbench.tasks._nets.trunk import ByTask, Pick


def mtan(
    outputs: Mapping[str, int],
    finals: Mapping[str, nn.Module] | None = None,
    *,
    filters: Sequence[int] = FILTERS,
) -> MultiTaskModel:
    """Multi-Task Attention Network on SegNet, from `"End-to-End Multi-Task Learning with Attention"
    <https://arxiv.org/abs/1803.10704>`_.

    The trunk returns objective name to features (B, filters[0], H, W), a head prediction (B,
    outputs, H, W). A task's masks belong to the trunk, so to the shared parameters, as in the
    trainers of Nash-MTL, FairGrad and SAMO; no other task's loss has a gradient there, and a pass
    for some tasks makes theirs alone. The convolutions between masks are common to all tasks, and
    so are their running statistics, which move once a task in each step.

    Departs from the authors' code as :func:`~mtlbench.tasks._nets.segnet.segnet` does.

    Args:
        outputs: channels of each objective's prediction.
        finals: what else to apply to an objective's prediction.
        filters: channels at each scale.
    """
    heads = dense_heads(filters[0], outputs, finals)
    own = {name: nn.Sequential(Pick(name), *head) for name, head in heads.items()}
    model = ByTask(MTAN(list(outputs), filters), own)
    initialize(model)
    return model


class MTAN(nn.Module):
    """SegNet and, for every objective, a path along it that sees its features through masks.

    Args:
        objectives: names of the paths.
        filters: channels at each scale.
    """

    def __init__(self, objectives: Sequence[str], filters: Sequence[int]) -> None:
        super().__init__()
        self.segnet = SegNet(filters)
        self.paths = nn.ModuleDict({name: Path(filters) for name in objectives})
        self.down = nn.ModuleList(map(conv_layer, filters, [*filters[1:], filters[-1]]))
        self.up = nn.ModuleList(starmap(conv_layer, _upwards(filters)))

    def forward(
        self,
        images: Tensor,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Tensor]:
        """Features (B, filters[0], H, W) of these objectives."""
        encoder, decoder = self.segnet.stages(images)
        found = {}
        for name in objectives:
            before_part(name)
            down, up = zip(encoder, self.down, strict=True), zip(decoder, self.up, strict=True)
            found[name] = self.paths[name](down, up)
        return found


Steps = Iterable[tuple[Stage, nn.Module]]
"""Stages of SegNet, each with the convolution that all paths have in common there."""


class Path(nn.Module):
    """One objective's attention: masks on the outputs of SegNet's stages, made of their entries
    and of what the path brings along.

    Args:
        filters: channels at each scale.
    """

    def __init__(self, filters: Sequence[int]) -> None:
        super().__init__()
        brought = [0, *filters[1:]]
        self.encoder = nn.ModuleList(
            mask_layer(n + more, n, n) for n, more in zip(filters, brought, strict=True)
        )
        self.decoder = nn.ModuleList(
            mask_layer(n + fewer, fewer, fewer) for n, fewer in _upwards(filters)
        )

    def forward(self, down: Steps, up: Steps) -> Tensor:
        """Features at full size."""
        brought: list[Tensor] = []
        for (stage, conv), mask in zip(down, self.encoder, strict=True):
            seen = mask(torch.cat([stage.entry, *brought], 1)) * stage.output
            brought = [nn.functional.max_pool2d(conv(seen), 2)]
        (x,) = brought
        for (stage, conv), mask in zip(up, self.decoder, strict=True):
            x = conv(_resize(x, stage.entry))
            x = mask(torch.cat([stage.entry, x], 1)) * stage.output
        return x


def mask_layer(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """Two 1 x 1 convolutions that end in a sigmoid."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )


def _upwards(filters: Sequence[int]) -> list[tuple[int, int]]:
    """Channels into and out of each scale of the decoder, from the coarsest to the finest."""
    return list(zip(filters, [filters[0], *filters[:-1]], strict=True))[::-1]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
