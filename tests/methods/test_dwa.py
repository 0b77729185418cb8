"""DWA: the softmax of the ratios of the last two epochs."""

import math

import pytest
import torch

from mtlbench.methods.dwa import DWA
from tests.models import assert_close, dense_view

EPOCHS = torch.tensor([[4.0, 1.0, 2.0], [2.0, 0.9, 2.0], [1.0, 0.9, 3.0]])


def test_weights_follow_the_formula_from_the_third_epoch_on() -> None:
    method, view = DWA(3), dense_view()
    for t in range(4):
        expected = [1.0] * 3
        if t >= 2:
            powers = [math.exp(float(EPOCHS[t - 1, k] / EPOCHS[t - 2, k]) / 2) for k in range(3)]
            expected = [3 * p / sum(powers) for p in powers]
        assert method.weights(view).tolist() == pytest.approx(expected)
        if t < 3:
            method.on_epoch_end(t, EPOCHS[t])


def test_a_resumed_method_goes_on_alike() -> None:
    first, view = DWA(3), dense_view()
    first.on_epoch_end(0, EPOCHS[0])
    second = DWA(3)
    second.load_state_dict(first.state_dict())
    for method in (first, second):
        method.on_epoch_end(1, EPOCHS[1])
    assert torch.equal(first.weights(view), second.weights(view))


def test_one_task_and_epochs_without_loss() -> None:
    view = dense_view(1)
    assert_close(DWA(1).aggregate(view).shared, view.jacobian()[0])
    method = DWA(3)
    for t in range(2):
        method.on_epoch_end(t, torch.tensor([0.0, 0.0, 1.0]))
    assert torch.isfinite(method.weights(dense_view())).all()


def test_a_task_counts_the_epochs_in_which_it_had_labels() -> None:
    """Its ratio is 1 until there are two, and then that of the last two."""
    nan = float("nan")
    epochs = [[1.0, 1.0, nan], [0.9, 0.8, 5.0], [0.9, nan, 4.0], [0.9, 0.6, 4.0]]
    ratios: list[list[float]] = [[1, 1, 1], [0.9, 0.8, 1], [1, 0.8, 0.8], [1, 0.75, 1]]
    method = DWA(3)
    for t, (losses, ratio) in enumerate(zip(epochs, ratios, strict=True)):
        method.on_epoch_end(t, torch.tensor(losses))
        powers = [math.exp(r / 2) for r in ratio]
        expected = [3 * p / sum(powers) for p in powers]
        assert method.weights(dense_view()).tolist() == pytest.approx(expected)


def test_windows_of_steps_as_released() -> None:
    """The released trainers keep the last 2 n losses, ones before the first, and compare the means
    of the two halves from step n + 1 on."""
    n, K, losses = 3, 3, torch.rand(10, 3).double() + 0.5
    method = DWA(K, window=n)
    kept, view = torch.ones(2 * n, K).double(), dense_view(K)
    for step, found in enumerate(losses):
        kept = torch.cat([kept[1:], found[None]])
        expected = torch.ones(K).double()
        if step > n:
            expected = K * (kept[n:].mean(0) / kept[:n].mean(0) / 2).softmax(0)
        view.losses = found
        for _ in range(2):  # as often as it is asked
            assert_close(method.weights(view), expected, 1e-5)
        method.after_step(lambda: found)  # noqa: B023
        method.on_epoch_end(step, found)


def test_windows_survive_a_resume_and_absent_tasks() -> None:
    first = DWA(2, window=2)
    second = DWA(2, window=2)
    view = dense_view(2)
    for step in range(8):
        view.losses = torch.tensor([1.0, 2.0 + step]).double()
        first.weights(view)
        first.after_step(lambda: view.losses)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weights(view), second.weights(view))
    assert "costs" not in DWA(2).state_dict()
