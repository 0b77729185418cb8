"""Progressive layered extraction: shared and own experts at every stage, mixed by a task's gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.experts import N_OWN, N_SHARED
from mtlbench.tasks._nets.trunk import ByTask, Features, Trunk, mixed, picking


def ple(trunk: Trunk) -> MultiTaskModel:
    """The network of `"Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL)
    Model for Personalized Recommendations" <https://dl.acm.org/doi/10.1145/3383313.3412236>`_, in
    the form that `"LibMTL" <https://arxiv.org/abs/2203.14338>`_ gives it: of every stage two shared
    experts and one of the task's own, all of which see the task's mixture of the stage before.

    The trunk returns objective name to features. A task's gates and own experts lie in the trunk,
    act on its loss alone and are of its head; a pass for some tasks runs theirs alone.

    Departs from the paper, as LibMTL does: shared experts see a task's mixture, not one of their
    own, so that there is no shared gate; and from LibMTL: gates see means of maps, see
    :func:`~mtlbench.tasks._nets.trunk.map_gate`. Shared experts' running statistics move once a
    task in each step, behind the first stage.

    Args:
        trunk: what one expert of each stage is.
    """
    extraction = Extraction(trunk)
    return ByTask(extraction, picking(trunk.heads), dict(extraction.own.items()))


class Extraction(nn.Module):
    """Experts of all stages, and a path through them for each objective.

    Args:
        trunk: what one expert of each stage is.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.stem, self.experts = trunk.stem, _experts(trunk, N_SHARED)
        self.own = nn.ModuleDict({name: Path(trunk) for name in trunk.heads})

    def forward(
        self,
        x: Any,
        objectives: Sequence[str],
        before_part: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Features]:
        """Features of these objectives."""
        first, *later = self.experts.children()
        x = self.stem(x)
        seen = [expert(x) for expert in first.children()]
        found: dict[str, Features] = {}
        for name in objectives:
            before_part(name)
            found[name] = self.own[name](x, seen, later)
        return found


class Path(nn.Module):
    """One objective's gates and own experts.

    Args:
        trunk: what one expert of each stage is.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.experts = _experts(trunk, N_OWN)
        self.gates = nn.ModuleList(
            trunk.gate(stage, N_SHARED + N_OWN) for stage in range(len(self.experts))
        )

    def forward(
        self, x: Features, first: Sequence[Features], later: Sequence[nn.Module]
    ) -> Features:
        """Features.

        Args:
            x: what the first stage sees.
            first: what its shared experts make of it.
            later: the shared experts of each other stage.
        """
        for stage, (own, gate) in enumerate(zip(self.experts, self.gates, strict=True)):
            shared = [e(x) for e in later[stage - 1].children()] if stage else first
            every = [*shared, *(expert(x) for expert in own.children())]
            x = mixed(gate(x).softmax(1), every)
        return x


def _experts(trunk: Trunk, n: int) -> nn.ModuleList:
    """n experts of each stage."""
    return nn.ModuleList(map(nn.ModuleList, zip(*(trunk.stages() for _ in range(n)), strict=True)))
