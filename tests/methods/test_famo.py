"""FAMO: weights from the losses and from what the last step did to them."""

import pytest
import torch
from torch import Tensor

from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import DenseView
from mtlbench.methods.famo import FAMO

LOSSES = torch.tensor([0.5, 1.0, 4.0])


def _view(losses: Tensor = LOSSES) -> DenseView:
    return DenseView(losses, torch.ones(len(losses), 2), [], torch.Generator())


def _shares(method: FAMO) -> Tensor:
    return method.logits.detach().softmax(0)


def test_the_first_weights_are_inverse_to_the_losses() -> None:
    assert torch.allclose(FAMO(3).weights(_view()), (1 / LOSSES) / (1 / LOSSES).sum())


def test_losses_are_counted_from_their_lower_bound() -> None:
    gaps = LOSSES - 0.25
    expected = (1 / gaps) / (1 / gaps).sum()
    assert torch.allclose(FAMO(3, min_loss=0.25).weights(_view()), expected)


def test_a_loss_at_or_below_its_bound_takes_the_weight_and_stays_finite() -> None:
    method = FAMO(3, min_loss=0.5)
    w = method.weights(_view(torch.tensor([0.5, 0.1, 2.0])))
    assert torch.allclose(w, torch.tensor([0.5, 0.5, 0.0]), atol=1e-6)
    method.after_step(lambda: torch.tensor([0.1, 0.5, 2.0]))
    assert torch.isfinite(method.logits).all()


def test_the_task_that_improves_least_gains() -> None:
    method = FAMO(3)
    for _ in range(3):
        method.weights(_view())
        method.after_step(lambda: LOSSES * torch.tensor([0.5, 1.0, 0.8]))
    first, second, third = _shares(method).tolist()
    assert second > third > first


def test_a_step_without_effect_changes_nothing() -> None:
    method = FAMO(3)
    method.weights(_view())
    method.after_step(lambda: LOSSES)
    assert not method.logits.any()


def test_weight_decay_pulls_the_logits_together() -> None:
    method = FAMO(2, gamma=0.5)
    with torch.no_grad():
        method.logits.copy_(torch.tensor([1.0, -1.0]))
    for _ in range(20):
        method.weights(_view(LOSSES[:2]))
        method.after_step(lambda: LOSSES[:2])
    assert method.logits.abs().max() < 0.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_sum_to_one_in_the_precision_of_the_losses(dtype: torch.dtype) -> None:
    method, losses = FAMO(3), LOSSES.to(dtype)
    for _ in range(2):
        w = method.weights(_view(losses))
        assert w.dtype == dtype
        assert w.sum() == pytest.approx(1)
        method.after_step(lambda: losses / 2)


def test_a_step_that_taught_nothing_leaves_nothing_for_the_next() -> None:
    """One task alone is not asked for weights, and has no losses before the step to compare."""
    method = FAMO(3)
    method.weights(_view())
    method.after_step(lambda: LOSSES * torch.inf)
    with restricted(method, [2]):
        method.aggregate(
            DenseView(LOSSES[2:], torch.ones(1, 2), [torch.ones(1)], torch.Generator())
        )
        method.after_step(lambda: LOSSES[2:])
    assert not method.logits.any()


def test_a_step_that_left_the_domain_teaches_nothing() -> None:
    method, losses = FAMO(3), torch.tensor([1.0, 2.0, 3.0])
    view = DenseView(losses, torch.eye(3), [torch.ones(1)] * 3, torch.Generator())

    def step(after: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        method.weights(view)
        method.after_step(lambda: after)
        (state,) = method.optimizer.state.values()
        return method.logits.detach().clone(), {n: v.clone() for n, v in state.items()}

    logits, known = step(0.5 * losses)
    for nothing in (torch.inf, torch.nan):
        again, still = step(losses * torch.tensor([1.0, nothing, 1.0]))
        assert torch.equal(again, logits)
        assert all(torch.equal(value, known[name]) for name, value in still.items())
    assert not torch.equal(step(losses * torch.tensor([2.0, 1.0, 1.0]))[0], logits)
