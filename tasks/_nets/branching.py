"""Learning to branch: a column a task, each of whose stages chooses the column that it follows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, one_hot

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Features, Trunk, across, picking

WARM_UP = 1 / 100
"""Part of the epochs in which every column follows all."""
COOLING = 1 / 20


class LTB(MultiTaskModel):
    """A network from `"Learning to Branch for Multi-Task Learning"
    <https://arxiv.org/abs/2006.01895>`_, in the form that `"LibMTL"
    <https://arxiv.org/abs/2203.14338>`_ gives it.

    The trunk returns objective name to features. Which column acts on which loss is learnt, so that
    all of the trunk is shared. Noise is drawn as dropout's is, and all passes of a step choose
    alike.

    Departs from LibMTL: in evaluation mode every stage follows its likeliest column, without noise;
    before :meth:`begin_epoch` is first called the temperature is 1. The choices of the first stage,
    which all columns see the same input of, are left out. Departs from the paper: columns are kept
    as they are at the end, and not trained again.

    Args:
        trunk: what each column is.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__(Branches(trunk), picking(trunk.heads))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        r"""The temperature falls as :math:`\tau = E / (20 \sqrt{e + 1})`; in the first hundredth of
        E epochs every stage follows the sum of all columns."""
        self.shared.get_buffer("temperature").fill_(COOLING * epochs / math.sqrt(epoch + 1))
        self.shared.get_buffer("warm_up").fill_(epoch < WARM_UP * epochs)


class Branches(nn.Module):
    r"""Columns of stages; before every stage but the first,

    .. math:: h_j \leftarrow \sum_k D_{jk} h_k, \qquad
        D_j \sim \text{Gumbel-softmax}(\alpha_j, \tau)

    where D's rows are one-hot and have the gradient of the softmax.

    Args:
        trunk: what each column is.
    """

    temperature: Tensor
    warm_up: Tensor

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stem = trunk.stem
        self.columns = nn.ModuleDict({name: nn.ModuleList(trunk.stages()) for name in trunk.heads})
        n_stages = min(len(list(column.children())) for column in self.columns.values())
        K = len(self.columns)
        self.alpha = nn.ParameterList(torch.ones(K, K) for _ in range(n_stages - 1))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("warm_up", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Any) -> dict[str, Features]:
        """Features of every objective."""
        first, *later = zip(*(c.children() for c in self.columns.values()), strict=True)
        x = self.stem(x)
        features: list[Features] = [stage(x) for stage in first]
        for alpha, stages in zip(self.alpha, later, strict=True):
            followed = across(self.choices(alpha), features)
            features = [stage(h) for stage, h in zip(stages, followed, strict=True)]
        return dict(zip(self.columns, features, strict=True))

    def choices(self, alpha: Tensor) -> Tensor:
        """D, (K, K)."""
        if self.training:
            chosen = gumbel_softmax(alpha, self.temperature, hard=True)  # type: ignore[arg-type]
        else:
            chosen = one_hot(alpha.argmax(1), len(alpha)).to(alpha)
        return torch.where(self.warm_up, 1.0, chosen)
