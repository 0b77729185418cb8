"""Batches of data in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtlbench.data import ArrayBatches
from mtlbench.interfaces import InputGroup


def sizes(n: int, seed: int | None) -> list[int]:
    def group(index: Tensor) -> InputGroup:
        return InputGroup(index, {"left": index})

    batches = ArrayBatches(group, n, 4, seed)
    found = [len(group.inputs) for (group,) in batches]
    assert len(batches) == len(found)
    return found


@pytest.mark.parametrize(
    ("n", "shuffled"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 4]), (1, [1]), (0, [])]
)
def test_one_left_over_sits_a_shuffled_pass_out(n: int, shuffled: list[int]) -> None:
    assert sizes(n, seed=0) == shuffled
    assert sum(sizes(n, seed=None)) == n


def test_another_one_is_left_over_in_another_pass() -> None:
    def seen(seed: int) -> set[int]:
        batches = ArrayBatches(lambda i: InputGroup(i, {}), 9, 4, seed)
        return set(torch.cat([group.inputs for (group,) in batches]).tolist())

    assert len(set.union(*map(seen, range(5)))) == 9
