"""GO4Align: one weight for each group of tasks whose losses are alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, WeightingMethod
from mtlbench.interfaces.gradients import in_double

EPS = 1e-8


class GO4Align(WeightingMethod):
    r"""`"GO4Align: Group Optimization for Multi-Task Alignment"
    <https://arxiv.org/abs/2404.06486>`_.

    With p on the simplex, equal at first, and the new p used at once,

    .. math:: p_k \propto p_k e^{-\eta L_k}, \qquad \gamma_k = p_k \frac{\sum_j L_j}{L_k}, \qquad
        w_k = \operatorname{mean}_{j \in \mathcal{G}(k)} \gamma_j

    where :math:`\mathcal{G}(k)` is the group of task k when the numbers :math:`\gamma` are grouped
    by k-means.

    Known from the abstract and the authors' code, not from the paper's text. Departs from the code:
    numbers on a line are grouped exactly, not by iterations from a random start; a loss below 1e-8
    counts as 1e-8. The code's default is one group, all tasks together; the default here is two.

    Where some tasks have no label, p moves among the others and their sum is kept; groups and
    :math:`\gamma` are those of the others, with p scaled to sum to 1.

    Args:
        n_tasks: K.
        groups: number of groups; no more than there are tasks.
        lr: :math:`\eta`.
    """

    info = MethodInfo(
        name="go4align",
        title="GO4Align",
        year=2024,
        arxiv="2404.06486",
        head_policy="weighted",
        scale="sum",
        claims=("permutation", "scaling", "identical", "stationarity"),
    )
    logits: Tensor

    def __init__(self, n_tasks: int, *, groups: PositiveInt = 2, lr: PositiveFloat = 1e-4) -> None:
        super().__init__(n_tasks)
        self.groups, self.lr = groups, lr
        self.register_buffer("logits", torch.zeros(n_tasks, dtype=torch.float64))
        self._proposed: Tensor | None = None

    def weights(self, view: GradientView) -> Tensor:
        losses = in_double(view.losses).clamp_min(EPS)
        moved = self.logits - self.lr * losses
        moved += self.logits.logsumexp(0) - moved.logsumexp(0)  # the others keep their share
        self._proposed = moved
        indicators = moved.softmax(0) * losses.sum() / losses
        return group_means(indicators, min(self.groups, view.n_tasks)).to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.logits, self._proposed = self._proposed, None


def group_means(numbers: Tensor, groups: int) -> Tensor:
    """Each number's mean over its group, (K,), of the groups with the least squares to their means.

    On a line groups are intervals, and the best ones follow by dynamic programming (`Fisher, 1958
    <https://doi.org/10.1080/01621459.1958.10501479>`_). Nothing waits for a device.
    """
    K = len(numbers)
    x, order = numbers.sort()
    index = torch.arange(K, device=x.device)
    inside = (index[:, None] <= index) & (index <= index[:, None, None])
    inside = inside.transpose(0, 1).to(x)  # [i, j]: 1 for the numbers from i to j
    means = (inside * x).sum(2) / inside.sum(2).clamp_min(1)
    squares = (inside * (x - means[..., None]).square()).sum(2)
    squares = torch.where(index[:, None] <= index, squares, torch.inf)
    best, starts = squares[0], []  # [j]: of the numbers up to j
    for _ in range(groups - 1):
        before = torch.cat([best.new_full((1,), torch.inf), best[:-1]])
        best, start = (before[:, None] + squares).min(0)
        starts.append(start)
    found, last = torch.zeros_like(x), index[-1:]
    for start in [*reversed(starts), torch.zeros_like(index)]:
        first = start.gather(0, last)
        mean = means.flatten().gather(0, first * K + last)
        found = torch.where((first <= index) & (index <= last), mean, found)
        last = (first - 1).clamp_min(0)
    return torch.zeros_like(x).scatter(0, order, found)
