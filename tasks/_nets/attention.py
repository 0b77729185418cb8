"""MTAN on residual networks: a soft mask a task at every scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mtlbench.tasks._nets.mtan import mask_layer
from mtlbench.tasks._nets.resnet import SCALES, entry_of, exit_of
from mtlbench.tasks._nets.trunk import ByTask, picking


def attention(
    layers: Mapping[str, nn.Module], channels: Sequence[int], heads: Mapping[str, nn.Module]
) -> ByTask:
    """Multi-Task Attention Network, from `"End-to-End Multi-Task Learning with Attention"
    <https://arxiv.org/abs/1803.10704>`_, on the encoder of a residual network, as in `"LibMTL"
    <https://arxiv.org/abs/2203.14338>`_: at each scale a mask on the output of the last block, made
    of what it sees and of what the scale before brings along.

    The trunk returns objective name to features. A task's masks act on its loss alone and are of
    its head, as in LibMTL, and a pass for some tasks makes theirs alone. The blocks between masks
    are common to all tasks, and so are their running statistics, which move once a task in each
    step.

    Departs from LibMTL: there the blocks between masks do not count as shared parameters, though
    all tasks move them.

    Args:
        layers: of the residual network, by torchvision's names.
        channels: that each scale but the first sees.
        heads: objective name to what follows its path.
    """
    trunk = Attended(layers, channels, list(heads))
    return ByTask(trunk, picking(heads), dict(trunk.own.items()))


class Attended(nn.Module):
    """A residual network and, for every objective, a path along it that sees its features through
    masks.

    Args:
        layers, channels: see :func:`attention`.
        objectives: names of the paths.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], channels: Sequence[int], objectives: Sequence[str]
    ) -> None:
        super().__init__()
        self.entry = entry_of(layers)
        self.scales = nn.ModuleList(layers[name] for name in SCALES)
        self.exit = nn.Sequential(*exit_of(layers))
        block = type(layers[SCALES[-1]][-1])  # type: ignore[index]
        outputs = [*channels[1:], 2 * channels[-1]]
        self.between = nn.ModuleList(
            block(n, more // block.expansion, downsample=_projection(n, more))
            for n, more in pairwise(outputs)
        )
        self.own = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    mask_layer(n if scale == 0 else 2 * n, n, n // block.expansion)
                    for scale, n in enumerate(outputs)
                )
                for name in objectives
            }
        )

    def forward(
        self,
        images: Tensor,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Tensor]:
        """Features of these objectives."""
        x = self.entry(images)
        seen = []
        for blocks in self.scales:
            *most, last = blocks.children()
            entry = nn.Sequential(*most)(x)
            x = last(entry)
            seen.append((entry, x))
        found = {}
        for name in objectives:
            before_part(name)
            found[name] = self.exit(self._path(seen, self.own[name]))
        return found

    def _path(self, seen: Sequence[tuple[Tensor, Tensor]], masks: nn.Module) -> Tensor:
        """What a path makes of the input and the output of each scale's last block."""
        brought: list[Tensor] = []
        for scale, ((entry, output), mask) in enumerate(zip(seen, masks.children(), strict=True)):
            if brought and brought[0].shape[-2:] != entry.shape[-2:]:
                brought = [_smaller(brought[0], entry)]
            x: Tensor = mask(torch.cat([entry, *brought], 1)) * output
            if scale < len(self.between):
                brought = [self.between[scale](x)]
        return x


def _smaller(x: Tensor, like: Tensor) -> Tensor:
    """Maxima at the places of another map."""
    return nn.functional.adaptive_max_pool2d(x, like.shape[-2:])


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
