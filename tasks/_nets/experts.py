"""Mixtures of experts: trunks side by side, which every task mixes by a gate of its own."""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtlbench.interfaces import MultiTaskModel
from mtlbench.tasks._nets.trunk import Features, Trunk, mixed

N_EXPERTS = 3
"""Of MMoE."""
N_SHARED, N_OWN = 2, 1
"""Of CGC, and of each of its tasks."""
SELECTED, BITS = 2, 2
"""DSelect-k's k, and the logarithm of the number of its experts."""
ENTROPY = 1e-4
"""Weight of the entropy of DSelect-k's choices."""


def mmoe(trunk: Trunk) -> MultiTaskModel:
    """The network of `"Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts" <https://dl.acm.org/doi/10.1145/3219819.3220007>`_: :data:`N_EXPERTS`
    experts, which are shared, and a gate a task, which is a part of its head.

    Known from the abstract and other libraries. Departs from LibMTL: gates see means of images, not
    every pixel, see :func:`~mtlbench.tasks._nets.trunk.map_gate`.

    Args:
        trunk: what each expert is.
    """
    return _network(trunk, N_EXPERTS, 0)


def cgc(trunk: Trunk) -> MultiTaskModel:
    """Customized gate control, the network of one level from `"Progressive Layered Extraction
    (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations"
    <https://dl.acm.org/doi/10.1145/3383313.3412236>`_: :data:`N_SHARED` shared experts; a task's
    gate and its :data:`N_OWN` own expert are parts of its head.

    Known from the abstract and other libraries. Departs from LibMTL as :func:`mmoe` does.

    Args:
        trunk: what each expert is.
    """
    return _network(trunk, N_SHARED, N_OWN)


def _network(trunk: Trunk, n_shared: int, n_own: int) -> MultiTaskModel:
    shared = Experts(trunk, n_shared)

    def mixture(head: nn.Module) -> nn.Module:
        own = nn.ModuleList(trunk.whole() for _ in range(n_own))
        return Mixture(trunk.gate(0, n_shared + n_own), own, head)

    return MultiTaskModel(shared, {name: mixture(head) for name, head in trunk.heads.items()})


class Experts(nn.Module):
    """A stem and experts on its output.

    Args:
        trunk: what each expert is.
        n: number of experts.
    """

    def __init__(self, trunk: Trunk, n: int) -> None:
        super().__init__()
        self.stem, self.experts = trunk.stem, nn.ModuleList(trunk.whole() for _ in range(n))

    def forward(self, x: Any) -> tuple[Any, list[Features]]:
        """The stem's output, and the experts'."""
        x = self.stem(x)
        return x, [expert(x) for expert in self.experts]


class Mixture(nn.Module):
    r"""A head: :math:`\sum_e \operatorname{softmax}(W x + b)_e f_e(x)` over the shared experts and
    the task's own, and what follows it. As it lies in the head, the gate is the task's alone, and
    runs for its loss alone.

    Args:
        gate: from the stem's output to a number an expert.
        own: the task's experts.
        head: from features to the prediction.
    """

    def __init__(self, gate: nn.Module, own: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.gate, self.own, self.head = gate, own, head

    def forward(self, trunk: tuple[Any, list[Features]]) -> Any:
        x, shared = trunk
        every = [*shared, *(expert(x) for expert in self.own)]
        return self.head(mixed(self.gate(x).softmax(1), every))


# ------------------------------------------------------------------------------------ DSelect-k
class DSelectK(MultiTaskModel):
    r"""The network of `"DSelect-k: Differentiable Selection in the Mixture of Experts with
    Applications to Multi-Task Learning" <https://arxiv.org/abs/2106.03760>`_: four shared experts,
    of which each example of each task uses at most :data:`SELECTED`; a task's selectors are parts
    of its head.

    Each loss has a penalty, :data:`ENTROPY` times the mean over the examples of the entropies of
    its own task's selectors, which makes them choose.

    Departs from LibMTL: the penalty is added to the loss, of every task, and not only to the
    gradient of the last; it is a mean of 1e-4, not a sum of 1e-6. Gates see what
    :func:`mmoe`'s see. The number of experts is a power of two, which needs no second penalty.

    Args:
        trunk: what each expert is.
    """

    def __init__(self, trunk: Trunk) -> None:
        def selection(head: nn.Module) -> nn.Module:
            selector = Selector(trunk.gate(0, SELECTED * BITS), trunk.gate(0, SELECTED))
            return Selection(selector, head)

        heads = {name: selection(head) for name, head in trunk.heads.items()}
        super().__init__(Experts(trunk, 2**BITS), heads)

    def penalty(self, features: Any, objective: str) -> Tensor:
        x, _ = features
        selected = cast(Selection, self.heads[objective]).selector.selected(x)
        return -ENTROPY * (selected * (selected + 1e-6).log()).sum((1, 2)).mean()


class Selector(nn.Module):
    r"""The shares of n = 2^m experts, of which at most k are not 0:

    .. math:: q_e(x) = \sum_{i=1}^k \operatorname{softmax}(W x + b)_i
        \prod_{j=1}^m \big(e_j\, S(z_{ij}) + (1 - e_j) (1 - S(z_{ij}))\big)

    where e_j are the bits of e, z = Z x + c, and S is the smooth step: a cubic from 0 at -1/2 to 1
    at 1/2, constant outside.

    Args:
        z: to k m numbers an example.
        w: to k numbers an example.
    """

    codes: Tensor

    def __init__(self, z: nn.Module, w: nn.Module) -> None:
        super().__init__()
        self.z, self.w = z, w
        for part, bound in ((z, 0.01), (w, 0.05)):
            for p in part.parameters():
                nn.init.uniform_(p, -bound, bound)
        codes = list(itertools.product((False, True), repeat=BITS))
        self.register_buffer("codes", torch.tensor(codes), persistent=False)

    def selected(self, x: Any) -> Tensor:
        """Shares of the experts in each of the k choices, (B, k, n)."""
        t = self.z(x).view(-1, SELECTED, 1, BITS).clamp(-0.5, 0.5)
        step = 0.5 + 1.5 * t - 2 * t**3
        return torch.where(self.codes, step, 1 - step).prod(3)

    def forward(self, x: Any) -> Tensor:
        """Shares (B, n)."""
        shares: Tensor = self.w(x).softmax(1).unsqueeze(2) * self.selected(x)
        return shares.sum(1)


class Selection(nn.Module):
    """A head: the experts in the shares that a :class:`Selector` gives them, and what follows.

    Args:
        selector: the task's.
        head: from features to the prediction.
    """

    def __init__(self, selector: Selector, head: nn.Module) -> None:
        super().__init__()
        self.selector, self.head = selector, head

    def forward(self, trunk: tuple[Any, list[Features]]) -> Any:
        x, experts = trunk
        return self.head(mixed(self.selector(x), experts))
