"""Networks for many yes-or-no questions about one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel

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
    layers: list[nn.Module] = []
    before = 3
    for stage, widths in enumerate(WIDTHS):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for width in widths:
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(before, before, bias=False), nn.BatchNorm1d(before), nn.ReLU()]
    return LogitHeads(nn.Sequential(*layers), objectives, before)


def strided(objectives: Sequence[str], image: int, width: int, features: int) -> LogitHeads:
    """Two convolutions whose steps are as long as their kernels, and a linear layer, which sees
    what is where.

    Args:
        objectives: names of the heads.
        image: sides of the images, a multiple of 16.
        width: channels of the first convolution; the second has twice as many.
        features: width of the trunk's output.
    """
    places = (image // STEP**2) ** 2
    trunk = nn.Sequential(
        nn.Conv2d(3, width, STEP, stride=STEP),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, STEP, stride=STEP, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * places, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
    )
    return LogitHeads(trunk, objectives, features)
