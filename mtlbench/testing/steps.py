"""Steps on the tiny networks: what they cost, and whether they can be resumed."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import nn

from mtlbench.engine.observe import StepLog
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.step import StepReport
from mtlbench.interfaces import Batch, InputGroup, Loss, Passes
from mtlbench.registry import Spec
from mtlbench.testing.findings import global_seed, require, same
from mtlbench.testing.networks import (
    NETWORKS,
    PLAIN,
    TRUNK,
    JointlySquared,
    batch,
    joint_heads,
    objectives,
    squared,
    traversals,
)
from mtlbench.training.stepper import Stepper

DTYPES = (torch.float32, torch.float64)
JOINT_HEADS = "joint heads"
EPOCH = 10
"""An epoch ends with every step of a run; numbered so that any warm-up is over after the second."""


class Descent(torch.optim.Optimizer):
    """Gradient descent, without the seconds that torch takes to make its first optimizer."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.param_groups = [{"params": list(model.parameters()), "lr": lr}]
        self.state = {}  # type: ignore[assignment]  # torch's own __init__ imports its compiler

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Supplied(Stepper):
    """A stepper that makes the further batches of a step from its batch: the same targets, for
    other rows of the inputs, which are tensors."""

    def step(
        self,
        batch: Batch | InputGroup,
        loss: Loss,
        further: Sequence[Batch | InputGroup] = (),
        *,
        log: StepLog | None = None,
    ) -> StepReport:
        groups = [batch] if isinstance(batch, InputGroup) else batch
        made = [
            [InputGroup(group.inputs.roll(k, 0), group.targets) for group in groups]
            for k in range(1, self.n_further + 1)
        ]
        return super().step(batch, loss, further or made, log=log)


def stepper(
    method: Spec,
    sharpness: Spec | None,
    K: int,
    *,
    network: str = PLAIN,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    lr: float = 0.01,
) -> Stepper:
    """A stepper on a tiny network.

    Args:
        method: weighting method.
        sharpness: wrapper; None for the one that changes nothing.
        K: number of tasks.
        network: one of ``NETWORKS``, or ``JOINT_HEADS``.
        seed: of weights and noise.
        dtype: of the parameters.
        device: where they lie.
        lr: learning rate.
    """
    with global_seed(seed):
        model = (NETWORKS | {JOINT_HEADS: joint_heads})[network](objectives(K)).to(device, dtype)
    return Supplied(model, Descent(model, lr), method, sharpness, seed=seed)


def problem(
    of: Stepper, *, single: bool = True, seed: int = 0, loss: Any = squared
) -> BatchProblem:
    """The problem that a stepper's next step would solve."""
    K = len(of.objectives)
    groups = batch(K, seed=seed, single=single, like=of.flat.data)
    return BatchProblem(of.model, of.flat, groups, of.objectives, loss, of.generator, of.passes)


def devices() -> list[str]:
    """Where a check can run."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def difference(after: Passes, before: Passes) -> Passes:
    """Passes in between."""
    return Passes(**{kind: n - vars(before)[kind] for kind, n in vars(after).items()})


def traversed(
    fresh: Callable[..., Stepper], K: int, steps: int
) -> Iterator[tuple[str, Counter[str]]]:
    """What autograd runs through in each step, for shared inputs and inputs of their own, heads and
    losses apart and joint; the counters of the step are held to it.

    Args:
        fresh: makes a stepper from K and keyword options.
        K: number of tasks.
        steps: how many a case.

    Yields:
        The case, and how often a head, and the trunk, was run through in a step.

    Raises:
        ViolationError: a counter says something else.
    """
    losses: tuple[Loss, ...] = (squared, JointlySquared())
    for network, loss, single in product((PLAIN, JOINT_HEADS), losses, (True, False)):
        running = fresh(K, network=network)
        noted = traversals(running.model)
        for seed in range(steps):
            noted.clear()
            before = replace(running.passes)
            running.step(batch(K, seed=seed, single=single), loss)
            said, found = difference(running.passes, before).backward, noted[TRUNK]
            kind = "joint losses" if loss is not squared else "losses apart"
            inputs = "shared inputs" if single else "inputs of their own"
            where = f"step {seed + 1}, K = {K}, {network}, {kind}, {inputs}"
            require(said == found, f"{found} backward passes, counted {said}: {where}")
            yield where, Counter(noted)


def snapshot(module: nn.Module) -> Any:
    """The module's state as a checkpoint has it."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(fresh: Callable[..., Stepper]) -> str:
    """A stepper loaded from a checkpoint goes on bit for bit.

    Args:
        fresh: makes a stepper from K and keyword options.

    Raises:
        ViolationError: the two differ.
    """
    K = 3

    def train(running: Stepper, steps: range) -> None:
        for index in steps:
            report = running.step(batch(K, seed=index), squared)
            assert report.losses is not None
            running.on_epoch_end(EPOCH * index, report.losses)

    first = fresh(K)
    with global_seed(1):
        train(first, range(3))
    file = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "stepper": first.state_dict()}, file)
    with global_seed(2):
        train(first, range(3, 6))
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = fresh(K, seed=1)
    second.model.load_state_dict(state["model"])
    second.load_state_dict(state["stepper"])
    with global_seed(2):
        train(second, range(3, 6))
    require(torch.equal(second.flat.data, first.flat.data), "the parameters go another way")
    require(same(second.state_dict(), first.state_dict()), "the state goes another way")
    return "3 steps, a checkpoint and 3 more are bit-equal to 6 steps"
