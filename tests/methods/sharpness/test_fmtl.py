"""F-MTL: losses and flatness aggregated apart."""

import pytest
import torch
from torch import Tensor

from mtlbench.interfaces import GradientView, Update
from mtlbench.methods.sharpness.fmtl import FMTL
from tests.models import (
    MakeBatch,
    displacements,
    make_problem,
    make_stepper,
    multi_batch,
    single_batch,
    tiny_model,
)
from tests.reference import Wrapper, assert_follows_reference


@pytest.mark.parametrize("make_batch", [single_batch, multi_batch])
@pytest.mark.parametrize("method", ["ls", "cagrad"])
def test_options_follow_the_reference(method: str, make_batch: MakeBatch) -> None:
    batches = [make_batch(seed=seed) for seed in range(2)]
    reference = Wrapper("fmtl", rho=0.3, rho_head=0.02)
    assert_follows_reference(tiny_model(), batches, method, "fmtl:rho=0.3,rho_head=0.02", reference)


def test_every_task_has_a_point_of_its_own() -> None:
    stepper = make_stepper(tiny_model(), "ls", "fmtl:rho=0.2,rho_head=0.1")
    here, *there = displacements(stepper)
    assert not here.any()
    assert len(there) == 3
    for k, d in enumerate(there):
        assert float(d[stepper.flat.shared].norm()) == pytest.approx(0.2)
        for j, segment in enumerate(stepper.flat.heads):
            assert float(d[segment].norm()) == pytest.approx(0.1 if j == k else 0.0)


def test_heads_move_by_rho_where_nothing_else_is_said() -> None:
    assert FMTL(rho=0.3).head_ball.rho == 0.3
    assert FMTL(rho=0.3, rho_head=0.1).head_ball.rho == 0.1


def test_the_two_families_are_apart_and_add_up_to_the_sharp_gradients() -> None:
    problem = make_problem(tiny_model())
    rows: list[Tensor] = []

    def aggregate(view: GradientView) -> Update:
        rows.append(view.jacobian().clone())
        return view.combine(torch.ones_like(view.losses))

    update = FMTL(rho=0.2).update(problem, aggregate, aggregate)
    loss_rows, flat_rows = rows
    assert (flat_rows.norm(dim=1) < loss_rows.norm(dim=1)).all()
    assert torch.allclose(update.shared, (loss_rows + flat_rows).sum(0))


def test_each_part_has_a_method_of_its_own() -> None:
    stepper = make_stepper(tiny_model(), "mgda", "fmtl")
    assert len(stepper.methods) == stepper.wrapper.parts == 2
    assert stepper.methods[0] is not stepper.methods[1]


def test_a_zero_gradient_moves_nothing() -> None:
    stepper = make_stepper(tiny_model(), "mgda", "fmtl")
    seen = displacements(stepper, loss=lambda name, p, t: p.sum() * 0)
    assert not any(d.any() for d in seen)
