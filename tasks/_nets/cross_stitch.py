"""Cross-stitch networks: a column a task, whose features are mixed behind every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Features, Trunk, across, picking

OWN = 0.9
"""Share of a task's own features, at the start."""


def cross_stitch(trunk: Trunk) -> MultiTaskModel:
    """A network from `"Cross-stitch Networks for Multi-task Learning"
    <https://arxiv.org/abs/1604.03539>`_ on any sequence of stages.

    The trunk returns objective name to features. Behind the first stitch every column acts on every
    loss, so that all of the trunk is shared.

    Departs from the paper: a stitch is one K x K matrix a stage, not one a channel; K may be any
    number, where the paper has two tasks. Known from the abstract and other libraries. Departs from
    LibMTL: there all of a stitch begins at 1, and there is none behind the last stage.

    Args:
        trunk: what each column is.
    """
    columns = {name: trunk.stages() for name in trunk.heads}
    return MultiTaskModel(CrossStitch(trunk.stem, columns), picking(trunk.heads))


class CrossStitch(nn.Module):
    r"""Columns of stages with

    .. math:: h_j \leftarrow \sum_k A_{jk} h_k, \qquad
        A_{jj} = 0.9, \quad A_{jk} = 0.1 / (K - 1) \text{ at the start}

    behind each.

    Args:
        stem: before the columns.
        columns: objective name to stages; as many for each.
    """

    def __init__(self, stem: nn.Module, columns: Mapping[str, Sequence[nn.Module]]) -> None:
        super().__init__()
        self.stem = stem
        self.columns = nn.ModuleDict(
            {name: nn.ModuleList(stages) for name, stages in columns.items()}
        )
        K, n_stages = len(columns), len(next(iter(columns.values())))
        start = torch.full((K, K), (1 - OWN) / max(K - 1, 1)).fill_diagonal_(OWN if K > 1 else 1.0)
        self.stitches = nn.ParameterList(start.clone() for _ in range(n_stages))

    def forward(self, x: Any) -> dict[str, Features]:
        """Features of every objective."""
        features = [self.stem(x)] * len(self.columns)
        for stage, stitch in enumerate(self.stitches):
            columns = zip(self.columns.values(), features, strict=True)
            own = [column[stage](h) for column, h in columns]  # type: ignore[index]
            features = across(stitch, own)
        return dict(zip(self.columns, features, strict=True))
