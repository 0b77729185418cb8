"""SAMO's step as it was released is SAMO's step."""

from __future__ import annotations

import pytest
import torch

from mtlbench.bench.workloads import cnn
from mtlbench.methods.sharpness._yardsticks import ReleasedSAMO
from mtlbench.registry import METHODS
from tests.bench.plans import CPU, TINY


@pytest.mark.parametrize("method", ["ls", "mgda", "fairgrad", "famo"])
def test_without_noise_both_steps_are_the_same(method: str) -> None:
    work = cnn(TINY, 0, CPU)
    stepper, model = work.stepper(method, "samo:alpha=1,probe=eval"), work.build()
    optimizer = work.optimize(model)
    for group in (*stepper.optimizer.param_groups, *optimizer.param_groups):
        group["lr"] = 1e-2
    released = ReleasedSAMO(
        model,
        optimizer,
        METHODS.build(method, 3),
        work.batch,
        work.loss,
        rho=0.05,
        alpha=1,
        mu=0.01,
    )
    for _ in range(3):
        stepper.step(work.batch, work.loss)
        released()
    for mine, theirs in zip(stepper.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_the_local_part_has_the_norms_and_the_sign_of_the_paper() -> None:
    work = cnn(TINY, 0, CPU)
    model = work.build()
    released = ReleasedSAMO(
        model,
        work.optimize(model),
        METHODS.build("ls", 3),
        work.batch,
        work.loss,
        rho=0.05,
        alpha=0.0,
        mu=1e-4,
    )
    before = [p.detach().clone() for p in model.shared.parameters()]
    released._losses(model).mean().backward()
    local = released._estimated("task1")
    mixed = released._to_length(model.shared, released._mixed(local))
    norms = torch.stack([part.norm() for part in mixed.values()])
    assert float(norms.norm()) == pytest.approx(0.05, rel=1e-5)
    own = torch.stack([p.grad.norm() for p in model.shared.parameters() if p.grad is not None])
    torch.testing.assert_close(norms / norms.norm(), own / own.norm())
    model.eval()
    loss = work.loss("task1", model(work.batch[0].inputs)["task1"], work.batch[0].targets["task1"])
    gradients = torch.autograd.grad(loss, list(model.shared.parameters()))
    along = sum((g * z).sum() for g, z in zip(gradients, local.values(), strict=True))
    assert along > 0  # as the slope along z is part of z's factor
    assert all(map(torch.equal, before, model.shared.parameters()))
