"""SAM: one perturbation along the mean gradient."""

import pytest
import torch
from torch import Tensor

from tests.models import (
    MakeBatch,
    assert_close,
    displacements,
    make_stepper,
    multi_batch,
    single_batch,
    tiny_model,
)
from tests.reference import Wrapper, assert_follows_reference


@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
@pytest.mark.parametrize("method", ["ls", "mgda"])
@pytest.mark.parametrize(
    "options", [{"rho": 0.3}, {"rho": 0.3, "blocks": "separate"}], ids=["joint", "separate"]
)
def test_options_follow_the_reference(
    method: str, options: dict[str, str | float], make_batch: MakeBatch
) -> None:
    text = "sam:" + ",".join(f"{k}={v}" for k, v in options.items())
    batches = [make_batch(seed=seed) for seed in range(2)]
    reference = Wrapper("sam", rho=0.3, blocks=str(options.get("blocks", "joint")))
    assert_follows_reference(tiny_model(), batches, method, text, reference)


@pytest.mark.parametrize("method", ["ls", "mgda"])
def test_there_is_one_shifted_point_of_length_rho(method: str) -> None:
    here, there = displacements(make_stepper(tiny_model(), method, "sam:rho=0.2"))
    assert not here.any()
    assert float(there.norm()) == pytest.approx(0.2)


def test_separate_blocks_have_length_rho_each() -> None:
    stepper = make_stepper(tiny_model(), "ls", "sam:rho=0.2,blocks=separate")
    _, there = displacements(stepper)
    for segment in (stepper.flat.shared, *stepper.flat.heads):
        assert float(there[segment].norm()) == pytest.approx(0.2)


@pytest.mark.parametrize("blocks", ["joint", "separate"])
def test_a_zero_gradient_moves_nothing(blocks: str) -> None:
    def flat_loss(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.sum() * 0

    stepper = make_stepper(tiny_model(), "ls", f"sam:blocks={blocks}")
    assert not any(d.any() for d in displacements(stepper, loss=flat_loss))


def test_methods_see_the_losses_of_the_unperturbed_point() -> None:
    stepper, plain = (make_stepper(tiny_model(), "famo", s) for s in ("sam:rho=0.5", "none"))
    torch.manual_seed(0)
    report = stepper.step(single_batch(), lambda name, p, t: (p - t).pow(2).mean())
    torch.manual_seed(0)
    expected = plain.step(single_batch(), lambda name, p, t: (p - t).pow(2).mean())
    assert report.losses is not None
    assert expected.losses is not None
    assert torch.equal(report.losses, expected.losses)
    assert report.weights is not None
    assert expected.weights is not None
    assert_close(report.weights, expected.weights)
