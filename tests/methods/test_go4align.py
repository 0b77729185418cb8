"""GO4Align: one weight a group."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from mtlbench.interfaces import DenseView
from mtlbench.methods.go4align import GO4Align, group_means


def _labels(groups: int, K: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(range(groups), repeat=K)


def _squares(numbers: list[float], labels: tuple[int, ...]) -> float:
    """Of the distances to the means of the groups."""
    total = 0.0
    for group in set(labels):
        members = [x for x, label in zip(numbers, labels, strict=True) if label == group]
        total += sum((x - sum(members) / len(members)) ** 2 for x in members)
    return total


@pytest.mark.parametrize(("K", "groups"), [(2, 2), (5, 1), (5, 2), (5, 3)])
def test_numbers_are_grouped_as_well_as_can_be(K: int, groups: int) -> None:
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        numbers = torch.rand(K, generator=g).double()
        found = group_means(numbers, groups)
        best = min(_squares(numbers.tolist(), labels) for labels in _labels(groups, K))
        assert float((found - numbers).square().sum()) == pytest.approx(best, abs=1e-12)
        assert len(found.unique()) == groups
        for mean in found.unique():
            assert float(numbers[found == mean].mean()) == pytest.approx(float(mean))


def test_equal_numbers_and_numbers_that_are_none() -> None:
    assert group_means(torch.ones(4).double(), 2).tolist() == pytest.approx([1.0] * 4)
    group_means(torch.full((4,), torch.nan).double(), 3)  # losses of a device may be, until fetched


def test_a_loss_that_stays_small_gains_weight() -> None:
    method, losses = GO4Align(2, lr=0.1), torch.tensor([1.0, 2.0]).double()
    view = DenseView(losses, torch.ones(2, 2).double(), [], torch.Generator())
    for step in range(1, 6):
        p = torch.softmax(-0.1 * step * losses, 0)
        expected = (p * losses.sum() / losses).tolist()
        assert method.weights(view).tolist() == pytest.approx(expected)
        method.after_step(lambda: losses)


def test_no_more_groups_than_tasks() -> None:
    view = DenseView(torch.tensor([1.0, 3.0]), torch.ones(2, 2), [], torch.Generator())
    assert torch.equal(GO4Align(2, groups=9).weights(view), GO4Align(2).weights(view))
