"""Mixtures of experts: trunks side by side, which every task mixes by a gate of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel

N_EXPERTS = 3
"""Of MMoE."""
N_SHARED, N_OWN = 2, 1
"""Of CGC, and of each of its tasks."""


def mmoe(
    stem: nn.Module, width: int, expert: Callable[[], nn.Module], heads: Mapping[str, nn.Module]
) -> MultiTaskModel:
    """The network of `"Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts" <https://dl.acm.org/doi/10.1145/3219819.3220007>`_: :data:`N_EXPERTS`
    experts, which are shared, and a gate a task, which is a part of its head.

    Known from the abstract and other libraries.

    Args:
        stem: what experts and gates see the output of.
        width: of the stem's output, flattened.
        expert: makes one; from the stem's output to features (B, F).
        heads: objective name to what follows the mixture.
    """
    return _network(stem, width, expert, heads, N_EXPERTS, 0)


def cgc(
    stem: nn.Module, width: int, expert: Callable[[], nn.Module], heads: Mapping[str, nn.Module]
) -> MultiTaskModel:
    """Customized gate control, the network of one level from `"Progressive Layered Extraction
    (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations"
    <https://dl.acm.org/doi/10.1145/3383313.3412236>`_: :data:`N_SHARED` shared experts; a task's
    gate and its :data:`N_OWN` own expert are parts of its head.

    Known from the abstract and other libraries.

    Args:
        stem, width, expert, heads: as :func:`mmoe` has them.
    """
    return _network(stem, width, expert, heads, N_SHARED, N_OWN)


def _network(
    stem: nn.Module,
    width: int,
    expert: Callable[[], nn.Module],
    heads: Mapping[str, nn.Module],
    n_shared: int,
    n_own: int,
) -> MultiTaskModel:
    trunk = Experts(stem, nn.ModuleList(expert() for _ in range(n_shared)))

    def mixture(head: nn.Module) -> nn.Module:
        own = nn.ModuleList(expert() for _ in range(n_own))
        return Mixture(nn.Linear(width, n_shared + n_own), own, head)

    return MultiTaskModel(trunk, {name: mixture(head) for name, head in heads.items()})


class Experts(nn.Module):
    """A stem and experts on its output.

    Args:
        stem: before the experts.
        experts: from its output to features (B, F).
    """

    def __init__(self, stem: nn.Module, experts: nn.ModuleList) -> None:
        super().__init__()
        self.stem, self.experts = stem, experts

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The stem's output, and the experts'."""
        x = self.stem(x)
        return x, [expert(x) for expert in self.experts]


class Mixture(nn.Module):
    r"""A head: :math:`\sum_e \operatorname{softmax}(W x + b)_e f_e(x)` over the shared experts and
    the task's own, and what follows it. As it lies in the head, the gate is the task's alone, and
    runs for its loss alone.

    Args:
        gate: from the stem's output, flattened, to a number an expert.
        own: the task's experts.
        head: from features (B, F) to the prediction.
    """

    def __init__(self, gate: nn.Linear, own: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.gate, self.own, self.head = gate, own, head

    def forward(self, trunk: tuple[Tensor, list[Tensor]]) -> Tensor:
        x, shared = trunk
        features = torch.stack([*shared, *(expert(x) for expert in self.own)], 1)
        shares = self.gate(x.flatten(1)).softmax(1)
        found: Tensor = self.head((shares.unsqueeze(2) * features).sum(1))
        return found
