"""LDC-MTL: the objective's derivatives, with all options."""

import pytest
import torch

from mtlbench.interfaces import DenseView
from mtlbench.registry import METHODS
from tests.models import assert_close

STEPS = torch.tensor([[1.0, 4.0, 2.0], [0.8, 3.0, 2.5], [0.7, 2.0, 2.2]]).double()


@pytest.mark.parametrize(
    ("tau", "normalize"), [("one", "none"), ("one", "initial"), ("weights", "initial")]
)
def test_weights_and_logits_follow_the_objective(tau: str, normalize: str) -> None:
    found = METHODS.build(f"ldc_mtl:tau={tau},normalize={normalize},lam=0.3,lr=0.05", 3)
    W = torch.zeros(3).double().requires_grad_()
    optimizer = torch.optim.Adam([W], lr=0.05)
    scale = STEPS[0] / STEPS[0].min() if normalize == "initial" else torch.ones(3).double()
    for row in STEPS:
        losses = row.clone().requires_grad_()
        scaled, shares = losses / scale, W.softmax(0)
        compared = shares * scaled if tau == "weights" else scaled
        gaps = sum(abs(compared[k] - compared[k + 1]) for k in range(2))
        slope, w = torch.autograd.grad(shares @ scaled + 0.3 * gaps, [W, losses])
        view = DenseView(row, torch.ones(3, 2).double(), [], torch.Generator())
        assert_close(found.weights(view), w, 1e-5)
        found.after_step(lambda: STEPS[0])
        W.grad = slope
        optimizer.step()
