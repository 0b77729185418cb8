"""The option ``heads``: where papers and released code differ in what heads are updated with."""

import pytest
import torch

from mtlbench.engine.gramian import GramianMethod
from mtlbench.registry import METHODS, Spec, identifying
from tests.models import assert_close, dense_view, make_stepper, mse, single_batch, tiny_model

PAPERS = {
    "mgda": "unit",
    "imtl": "unit",
    "imtl_g": "unit",
    "nashmtl": "weighted",
    "fairgrad": "unit",
}


def test_the_default_is_the_papers() -> None:
    found = {}
    for name in METHODS.names():
        options = METHODS.resolve(Spec(name))[1]
        if "heads" in options:
            found[name] = options["heads"]
            assert METHODS.get(name).info.head_policy == options["heads"]
    assert found == PAPERS


@pytest.mark.parametrize("name", PAPERS)
def test_heads_get_their_gradients_or_those_times_the_weights(name: str) -> None:
    view = dense_view(3)
    unit, weighted = (METHODS.build(f"{name}:heads={heads}", 3) for heads in ("unit", "weighted"))
    assert all(map(torch.equal, unit.aggregate(view).heads, view.head_grads()))
    assert isinstance(weighted, GramianMethod)
    heads, w = weighted.aggregate(view).heads, weighted.weights(view)
    for own, w_k, expected in zip(heads, w, view.head_grads(), strict=True):
        assert_close(own, w_k * expected)


@pytest.mark.parametrize("name", PAPERS)
def test_a_protocols_scale_is_for_weighted_heads_alone(name: str) -> None:
    def heads(policy: str, scale: str) -> torch.Tensor:
        stepper = make_stepper(tiny_model(), f"{name}:heads={policy}", gradient_scale=scale)
        torch.manual_seed(0)
        stepper.step(single_batch(), mse)
        return torch.cat(stepper.flat.grad.heads).clone()

    scales = "paper", "sum"
    unit, weighted = ([heads(policy, scale) for scale in scales] for policy in ("unit", "weighted"))
    assert_close(unit[0], unit[1])
    if METHODS.get(name).info.scale == "mean":
        assert_close(3 * weighted[0], weighted[1])


def test_no_head_climbs_where_its_weight_is_negative() -> None:
    view = dense_view(3)
    view.jacobian()[0] = 3 * view.jacobian()[1] + 0.1 * view.jacobian()[0]
    method = METHODS.build("imtl_g", 3)
    update = method.aggregate(view)
    assert update.weights is not None
    assert float(update.weights.min()) < 0
    assert all(own @ g > 0 for own, g in zip(update.heads, view.head_grads(), strict=True))


@pytest.mark.parametrize("name", PAPERS)
def test_runs_are_told_apart_where_the_default_is_not_what_was_done(name: str) -> None:
    cls, options = METHODS.resolve(Spec(name))
    assert ("heads" in identifying(cls, options)) == (name in ("mgda", "imtl", "imtl_g"))
    cls, options = METHODS.resolve(Spec.parse(f"{name}:heads=weighted"))
    assert ("heads" in identifying(cls, options)) == (name != "nashmtl")
