"""ExcessMTL: more weight to the tasks that have more of their excess risk left."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.interfaces.gradients import in_double


class ExcessMTL(WeightingMethod):
    r"""`"Robust Multi-Task Learning with Excess Risks" <https://arxiv.org/abs/2402.02009>`_.

    The excess risk of a task is estimated from its gradient and a diagonal Hessian, the root of its
    summed squared gradients, and relative to that of the first step in which the task has a label,

    .. math:: S_k \leftarrow S_k + g_k^2, \qquad e_k = \sum_i \frac{g_{k,i}^2}{\sqrt{S_{k,i}}},
        \qquad w_k \propto w_k \exp \left( \eta \frac{e_k}{e_k(0)} \right)

    with squares and roots by entry, and w on the simplex, equal at first. The new w is used at
    once. S has the size of the Jacobian, (K, P).

    Departs from the authors' code: w sums to 1, as in the paper, where theirs sums to K; nothing is
    added under the root, entries that were always zero are left out; e(0) is that of one step, as
    there, where the paper's experiments average it over a warm-up.

    Where some tasks have no label, w moves among the others and their sum is kept; a task alone is
    plain descent, and its S grows.

    Args:
        n_tasks: K.
        lr: :math:`\eta`.
    """

    info = MethodInfo(
        name="excessmtl",
        title="ExcessMTL",
        year=2024,
        arxiv="2402.02009",
        head_policy="weighted",
        scale="mean",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
    )
    logits: Tensor
    first: Tensor
    squares: Tensor

    def __init__(self, n_tasks: int, *, lr: PositiveFloat = 0.01) -> None:
        super().__init__(n_tasks)
        self.lr = lr
        self.register_buffer("logits", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("first", torch.zeros(n_tasks, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(n_tasks, 0))  # (K, P) from the first step on
        self._proposed: tuple[Tensor, Tensor, Tensor] | None = None

    def aggregate(self, view: GradientView) -> Update:
        squares = view.jacobian().square()
        total = squares + self.squares.to(squares) if self.squares.numel() else squares.clone()
        excess = in_double(torch.where(total > 0, squares / total.sqrt(), 0.0)).sum(1)
        first = torch.where(self.first > 0, self.first, excess)
        moved = self.logits + self.lr * torch.where(first > 0, excess / first, 0.0)
        moved += self.logits.logsumexp(0) - moved.logsumexp(0)  # the others keep their share
        self._proposed = moved, first, total
        return view.combine(moved.softmax(0).to(view.losses))

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._proposed is not None:
            self.logits, self.first, self.squares = self._proposed
            self._proposed = None
