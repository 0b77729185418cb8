"""Networks for many yes-or-no questions about one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Trunk, map_gate, vector_gate

COLOURS = 3
STEP = 4
WIDTHS = ((64,), (128, 128), (256, 256), (512, 512))


class Rows(dict[str, Tensor]):
    """Names of the rows of a matrix, and these rows.

    Args:
        names: as many as there are rows.
        matrix: kept as it is, for what is done with all rows at once.
    """

    def __init__(self, names: Sequence[str], matrix: Tensor) -> None:
        super().__init__(zip(names, matrix.unbind(), strict=True))
        self.matrix = matrix


class Logit(nn.Module):
    """A linear layer with one output, its weights and its bias in one vector.

    Args:
        features: number of its inputs.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features)  # as torch.nn.Linear begins
        self.row = nn.Parameter(torch.empty(features + 1).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, features) to (batch,)."""
        return features @ self.row[:-1] + self.row[-1]


class LogitHeads(MultiTaskModel):
    """A trunk with a :class:`Logit` an objective; several at once are one matrix product.

    Args:
        shared: the trunk.
        objectives: names of the heads.
        features: width of the trunk's output.
    """

    def __init__(self, shared: nn.Module, objectives: Sequence[str], features: int) -> None:
        heads = {name: Logit(features) for name in objectives}
        super().__init__(shared, heads)
        self._rows = {name: head.row for name, head in heads.items()}

    def predict(
        self,
        features: Any,
        objectives: Sequence[str],
        before_head: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Tensor]:
        """As in :class:`MultiTaskModel`; heads that draw no random numbers need no
        ``before_head``."""
        if len(objectives) == 1:
            (name,) = objectives
            return {name: self.heads[name](features)}
        rows = torch.stack([self._rows[name] for name in objectives])
        return Rows(objectives, torch.addmm(rows[:, -1:], rows[:, :-1], features.T))


def deep(objectives: Sequence[str]) -> LogitHeads:
    """The network of `"FAMO" <https://arxiv.org/abs/2306.03792>`_'s CelebA experiments, which its
    successors took over: seven convolutions and two linear layers, all normalised, for images of
    any size.

    Departs from the authors' code: heads yield logits, their sigmoid is part of the loss.
    """
    shared = nn.Sequential(*chain(*_deep_stages()))
    return LogitHeads(shared, objectives, WIDTHS[-1][-1])


def deep_trunk(objectives: Sequence[str]) -> Trunk:
    """The same for other ways to share, in which no two heads have the same features."""
    inputs = [COLOURS, *(widths[-1] for widths in WIDTHS)]
    return Trunk(
        nn.Identity(),
        lambda: [nn.Sequential(*layers) for layers in _deep_stages()],
        lambda stage, n: map_gate(inputs[stage], n),
        {name: Logit(WIDTHS[-1][-1]) for name in objectives},
    )


def _deep_stages() -> list[list[nn.Module]]:
    """Layers at each scale of the maps, and the linear ones."""
    stages = list[list[nn.Module]]()
    before = COLOURS
    for scale, widths in enumerate(WIDTHS):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if scale else []
        for width in widths:
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        stages.append(layers)
    last: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        last += [nn.Linear(before, before, bias=False), nn.BatchNorm1d(before), nn.ReLU()]
    return [*stages, last]


def strided(objectives: Sequence[str], image: int, width: int, features: int) -> LogitHeads:
    """Two convolutions whose steps are as long as their kernels, and a linear layer, which sees
    what is where.

    Args:
        objectives: names of the heads.
        image: sides of the images, a multiple of 16.
        width: channels of the first convolution; the second has twice as many.
        features: width of the trunk's output.
    """
    shared = nn.Sequential(*chain(*_strided_stages(image, width, features)))
    return LogitHeads(shared, objectives, features)


def strided_trunk(objectives: Sequence[str], image: int, width: int, features: int) -> Trunk:
    """The same for other ways to share, in which no two heads have the same features."""
    places = (image // STEP**2) ** 2

    def gate(stage: int, n: int) -> nn.Module:
        flat = stage == 2
        return vector_gate(2 * width * places, n) if flat else map_gate((COLOURS, width)[stage], n)

    return Trunk(
        nn.Identity(),
        lambda: [nn.Sequential(*layers) for layers in _strided_stages(image, width, features)],
        gate,
        {name: Logit(features) for name in objectives},
    )


def _strided_stages(image: int, width: int, features: int) -> list[list[nn.Module]]:
    """The convolutions and the linear layer, each with what follows it."""
    places = (image // STEP**2) ** 2
    return [
        [nn.Conv2d(COLOURS, width, STEP, stride=STEP), nn.ReLU()],
        [
            nn.Conv2d(width, 2 * width, STEP, stride=STEP, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
        ],
        [
            nn.Linear(2 * width * places, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
        ],
    ]
