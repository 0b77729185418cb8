"""IMTL: IMTL-G on losses that IMTL-L scales."""

import pytest
import torch

from mtlbench.interfaces import DenseView, HeadPolicy
from mtlbench.methods.imtl import IMTL
from mtlbench.methods.imtl_g import IMTLG
from mtlbench.methods.imtl_l import IMTLL
from tests.models import assert_close, dense_view


@pytest.mark.parametrize("heads", ["unit", "weighted"])
def test_it_is_imtl_g_on_the_scaled_gradients(heads: HeadPolicy) -> None:
    whole, scale = IMTL(3, lr=0.1, heads=heads), IMTLL(3, lr=0.1)
    for seed in range(4):
        view = dense_view(seed=seed)
        factors = scale.weights(view)
        J = factors[:, None] * view.jacobian()
        own = [f * h for f, h in zip(factors, view.head_grads(), strict=True)]
        scaled = DenseView(view.losses, J, own, view.generator)
        expected, found = IMTLG(3, heads=heads).aggregate(scaled), whole.aggregate(view)
        assert_close(found.shared, expected.shared, 1e-6)
        for a, b in zip(found.heads, expected.heads, strict=True):
            assert_close(a, b, 1e-6)
        for method in (whole, scale):
            method.after_step(lambda: torch.ones(3))
    assert torch.equal(whole.log_scale, scale.log_scale)
    assert whole.log_scale.abs().max() > 0.1
