"""The wrappers of one point for all tasks or one for each: what each of them is beside SAM."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mtlbench import InputGroup
from tests.models import (
    assert_close,
    displacements,
    make_stepper,
    mse,
    params_of,
    same,
    single_batch,
    tiny_model,
)
from tests.reference import flattened


def trained(sharpness: str, method: str = "mgda", K: int = 3, steps: int = 3) -> Tensor:
    """Parameters after some steps."""
    torch.manual_seed(0)
    stepper = make_stepper(tiny_model(K), method, sharpness)
    for seed in range(steps):
        assert not stepper.step(single_batch(K, seed=seed), mse).skipped
    return flattened([p.detach().clone() for p in stepper.model.parameters()])


@pytest.mark.parametrize("method", ["ls", "mgda", "graddrop"])
@pytest.mark.parametrize(
    ("special", "known"),
    [
        ("fsam:sigma=0,rho=0.2", "sam:rho=0.2"),
        ("fsam:sigma=0,rho=0.2,points=per-task", "lsam:rho=0.2"),
        ("gsam:alpha=0,rho=0.2", "sam:rho=0.2"),
        ("gsam:alpha=0,rho=0.2,points=per-task", "lsam:rho=0.2"),
        ("wsam:gamma=0.5,rho=0.2", "sam:rho=0.2"),
        ("wsam:gamma=0.5,rho=0.2,points=per-task", "lsam:rho=0.2"),
        ("wsam:gamma=0,rho=0.2", "none"),
    ],
)
def test_special_cases(special: str, known: str, method: str) -> None:
    assert_close(trained(special, method), trained(known, method))


@pytest.mark.parametrize("points", ["common", "per-task"])
def test_esam_of_all_parameters_is_sam(points: str) -> None:
    """Not of a method with noise of its own, which comes from the same source."""
    known = "sam" if points == "common" else "lsam"
    text = f"esam:beta=1,rho=0.2,points={points}"
    assert_close(trained(text), trained(f"{known}:rho=0.2"))


@pytest.mark.parametrize("name", ["fsam", "gsam", "wsam"])
def test_one_task_has_one_point(name: str) -> None:
    assert_close(trained(f"{name}:points=common", K=1), trained(f"{name}:points=per-task", K=1))


def test_gsam_under_ls_is_the_papers_step_on_the_sum() -> None:
    def update(sharpness: str) -> Tensor:
        torch.manual_seed(0)
        stepper = make_stepper(tiny_model(), "ls", sharpness)
        stepper.step(single_batch(), mse)
        return flattened([stepper.flat.grad.rows[0], *stepper.flat.grad.heads])

    plain, sharp = update("none"), update("sam:rho=0.2")
    unit = sharp / sharp.norm()
    expected = sharp - 0.7 * (plain - plain @ unit * unit)
    assert_close(update("gsam:alpha=0.7,rho=0.2"), expected)


# ---------------------------------------------------------------------------------- F-SAM's memory
def test_the_first_ascent_is_sams() -> None:
    """As what is taken from the first gradient is a part of it."""
    torch.manual_seed(0)
    friendly = displacements(make_stepper(tiny_model(), "ls", "fsam:rho=0.2"))
    torch.manual_seed(0)
    plain = displacements(make_stepper(tiny_model(), "ls", "sam:rho=0.2"))
    for mine, theirs in zip(friendly, plain, strict=True):
        assert_close(mine, theirs)


def test_the_mean_is_that_of_the_gradients_at_the_parameters() -> None:
    torch.manual_seed(0)
    stepper = make_stepper(tiny_model(), "ls", "fsam:lam=0.75,rho=0.5", lr=0.0)
    plain = make_stepper(tiny_model(), "ls", "none", lr=0.0)
    expected = torch.zeros_like(plain.flat.data)
    for seed in range(3):
        state = torch.get_rng_state()
        stepper.step(single_batch(seed=seed), mse)
        torch.set_rng_state(state)
        plain.step(single_batch(seed=seed), mse)
        mean = flattened([plain.flat.grad.rows[0], *plain.flat.grad.heads]) / 3
        expected = 0.75 * expected + 0.25 * mean
    assert_close(stepper.wrapper.get_buffer("momentum")[0], expected)


@pytest.mark.parametrize("points", ["common", "per-task"])
def test_a_task_without_a_label_keeps_its_mean(points: str) -> None:
    stepper = make_stepper(tiny_model(), "mgda", f"fsam:points={points}")
    stepper.step(single_batch(), mse)
    before = stepper.wrapper.get_buffer("momentum").clone()
    (group,) = single_batch(seed=1)
    missing = list(group.targets)[1]
    targets = dict(group.targets) | {missing: torch.full_like(group.targets[missing], math.nan)}
    stepper.step([InputGroup(group.inputs, targets)], mse)
    after = stepper.wrapper.get_buffer("momentum")
    head = stepper.flat.all_heads[1]
    if points == "per-task":
        assert torch.equal(after[1], before[1])
        assert not torch.equal(after[2], before[2])
    else:
        assert torch.equal(after[0, head], before[0, head])
    assert not torch.equal(after[0], before[0])


def test_a_gradient_that_is_its_mean_moves_nothing() -> None:
    seen = displacements(make_stepper(tiny_model(), "ls", "fsam:lam=0"))
    assert not any(d.any() for d in seen)


# --------------------------------------------------------------------------------- ESAM's selection
@pytest.mark.parametrize("points", ["common", "per-task"])
def test_a_share_of_the_parameters_moves_by_more(points: str) -> None:
    known = "sam" if points == "common" else "lsam"
    text = f"esam:beta=0.25,rho=0.2,points={points}"
    torch.manual_seed(0)
    some = displacements(make_stepper(tiny_model(), "ls", text))
    torch.manual_seed(0)
    every = displacements(make_stepper(tiny_model(), "ls", f"{known}:rho=0.2"))
    for mine, theirs in zip(some[1:], every[1:], strict=True):
        moved = mine != 0
        assert_close(mine[moved], theirs[moved] / 0.25)
        assert 0.05 < float(moved.sum() / (theirs != 0).sum()) < 0.5
    if points == "per-task":
        shared = slice(0, 70)
        assert not torch.equal(some[1][shared] != 0, some[2][shared] != 0)


def test_every_step_has_a_draw_of_its_own() -> None:
    stepper = make_stepper(tiny_model(), "ls", "esam", lr=0.0)
    first, second = (displacements(stepper)[1] for _ in range(2))
    assert not torch.equal(first != 0, second != 0)


@pytest.mark.parametrize("name", ["fsam", "gsam", "wsam", "esam"])
@pytest.mark.parametrize("points", ["common", "per-task"])
def test_a_zero_gradient_moves_nothing(name: str, points: str) -> None:
    stepper = make_stepper(tiny_model(), "ls", f"{name}:points={points}", lr=0.1)
    before = params_of(stepper.model)
    assert not any(d.any() for d in displacements(stepper, loss=lambda n, p, t: p.sum() * 0))
    assert same(params_of(stepper.model), before)
