"""SAM-GS: one rule for lengths that differ, another for those that are alike."""

import pytest
import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.sam_gs import SAMGS, mean_similarity
from tests.models import assert_close, dense_view


def test_similarity() -> None:
    assert float(mean_similarity(torch.tensor([1.0, 2.0]).double())) == pytest.approx(0.8)
    assert float(mean_similarity(torch.tensor([3.0, 3.0, 3.0]).double())) == 1
    assert float(mean_similarity(torch.tensor([0.0, 0.0]).double())) == 1
    assert float(mean_similarity(torch.tensor([0.0, 1.0]).double())) == 0


def test_lengths_that_differ_are_made_equal() -> None:
    J = dense_view().jacobian() * torch.tensor([[1e-3], [1.0], [1e3]]).double()
    view = DenseView(torch.ones(3).double(), J, [*J[:, :2]], torch.Generator())
    norms = J.norm(dim=1)
    expected = norms.mean() * sum(g / n for g, n in zip(J, norms, strict=True))
    assert_close(SAMGS(3).aggregate(view).shared, expected)


def test_the_entries_of_the_momentum_lead_as_released() -> None:
    """The two rules of the authors' code again, with tasks in columns as there."""
    method, m, v = SAMGS(3, momentum="entries"), torch.zeros(7, 3).double(), 0.0
    for t in range(1, 5):
        view = dense_view(seed=t)
        w = view.jacobian().T
        size = torch.linalg.norm(w, dim=0)
        pairs = [
            2 * size[i] * size[j] / (size[i] ** 2 + size[j] ** 2)
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        m = 0.9 * m + 0.1 * w
        v = 0.99 * v + 0.01 * (1 - float(sum(pairs)) / 3) ** 2 + 1e-8
        led = (w * (m / (1 - 0.9**t)).abs() / (v / (1 - 0.99**t)) ** 0.5).sum(1)
        assert_close(method.aggregate(view).shared, led)
        method.after_step(lambda: torch.ones(3))
