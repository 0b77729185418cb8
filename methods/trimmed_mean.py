"""Trimmed mean: the extremes of every coordinate are left out."""

from __future__ import annotations

from pydantic import NonNegativeInt

from mtlbench.interfaces import GradientView, MethodInfo, Update, WeightingMethod
from mtlbench.methods._columns import column_blocks


class TrimmedMean(WeightingMethod):
    r"""The coordinate-wise trimmed mean of `"Byzantine-Robust Distributed Learning: Towards Optimal
    Statistical Rates" <https://arxiv.org/abs/1803.01498>`_.

    With :math:`g_{(1)} \le \dots \le g_{(K)}` the sorted entries of a coordinate,

    .. math:: d = \frac{1}{K - 2b} \sum_{k = b + 1}^{K - b} g_{(k)}

    The paper's fraction :math:`\beta` is b / K.

    Departs from the authors' code: none is known to us.

    Args:
        n_tasks: K.
        trim: b, how many entries are left out at each end, at most (K - 1) // 2: of two tasks it is
            the mean, of three the median.
    """

    info = MethodInfo(
        name="trimmed_mean",
        title="Trimmed mean",
        year=2018,
        arxiv="1803.01498",
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        whole_rows=True,
        claims=("permutation", "scaling", "identical"),
    )

    def __init__(self, n_tasks: int, *, trim: NonNegativeInt = 1) -> None:
        super().__init__(n_tasks)
        self.trim = trim

    def aggregate(self, view: GradientView) -> Update:
        J, K = view.jacobian(), view.n_tasks
        trim, mean = min(self.trim, (K - 1) // 2), J.new_empty(J.shape[1])
        for columns in column_blocks(J):
            ordered = J[:, columns].sort(dim=0).values
            mean[columns] = ordered[trim : K - trim].mean(0)
        return Update(mean, view.head_grads())
