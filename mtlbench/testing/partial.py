"""Partial labels: what a method knows of a task begins when the task does, and outlasts a pause."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import Update
from mtlbench.testing.families import Case
from mtlbench.testing.findings import judged, require
from mtlbench.testing.known import looked
from mtlbench.testing.steps import EPOCH
from mtlbench.testing.trials import MethodSubject, copied, relative, vectors

K, STEPS, EPOCH_STEPS, COMPLETE = 3, 60, 5, 40
"""Labels are complete from step ``COMPLETE`` on, at the latest."""
ALONGSIDE, AT_THE_END = 0.35, 0.1
"""How far an update may be from that of complete labels, relative to it: on any step on which all
tasks have a label, and on the last one. Rows of zeros are 0.4 off and more, and a wrong beginning
1; what a method honestly learns from fewer steps is up to 0.25."""

Pattern = Callable[[int], list[int]]
"""Who has a label in a step."""


def _absent_in_the_first_step(step: int) -> list[int]:
    return [0, 1] if step == 0 else [0, 1, 2]


def _absent_for_an_epoch(step: int) -> list[int]:
    """The first one, and another one later."""
    return [0, 1] if step // EPOCH_STEPS in (0, 4) else [0, 1, 2]


def _alone(step: int) -> list[int]:
    """Each in turn, from the first step on."""
    return [step // 7 % K] if step % 7 == 0 and step < COMPLETE else [0, 1, 2]


def _absent_at_random(step: int) -> list[int]:
    draw = torch.rand(K, generator=torch.Generator().manual_seed(step))
    some = [k for k in range(K) if draw[k] < 0.6]
    return some if some and step < COMPLETE else [0, 1, 2]


PATTERNS: dict[str, Pattern] = {
    "a task absent in the first step": _absent_in_the_first_step,
    "a task absent for an epoch": _absent_for_an_epoch,
    "one task alone in a step": _alone,
    "tasks absent at random": _absent_at_random,
}


def partial_labels(subject: MethodSubject) -> str:
    """Updates on partial labels: valid, and with all labels again those of complete labels."""
    control = list(_run(subject, lambda step: [0, 1, 2]))
    runs = {name: list(_run(subject, pattern)) for name, pattern in PATTERNS.items()}
    for name, found in runs.items():
        for step, update in enumerate(found):
            finite = all(bool(torch.isfinite(v).all()) for v in vectors(update))
            require(finite, f"not finite: {name}, step {step}")
            require(update.shared.any(), f"the update is zero: {name}, step {step}")

    def measured(steps: range) -> Iterator[tuple[float, str]]:
        for name, found in runs.items():
            for step in steps:
                if len(PATTERNS[name](step)) == K:
                    a, b = found[step].shared, control[step].shared
                    yield relative((a - b).norm(), float(b.norm())), f"{name}, step {step}"

    judged(measured(range(STEPS)), ALONGSIDE)
    return f"{STEPS} steps; in the end {judged(measured(range(STEPS - 1, STEPS)), AT_THE_END)}"


@cache
def _stream() -> list[Case]:
    """Gradients about a mean, of tasks that differ in size and in speed."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    times = torch.tensor([20.0, 40.0, 80.0], dtype=torch.float64)
    mean, found = normal(K, 14) + normal(1, 14), []
    for step in range(STEPS):
        J = sizes[:, None] * (mean + 0.05 * normal(K, 14))
        losses = sizes * (0.3 + 0.7 * torch.exp(-step / times))
        found.append(Case(f"step {step}", losses, J, J[:, :3].clone()))
    return found


def _run(subject: MethodSubject, pattern: Pattern) -> Iterator[Update]:
    """The updates of a fresh method, the losses of whose steps fall at different rates."""
    method, rates = subject.build(K), torch.tensor([0.98, 0.97, 0.96], dtype=torch.float64)
    losses = torch.full((STEPS, K), torch.nan, dtype=torch.float64)
    for step, whole in enumerate(_stream()):
        tasks = torch.tensor(pattern(step))
        case = whole.permuted(tasks)
        losses[step, tasks], after = case.losses, rates[tasks] * case.losses
        random.seed(step)  # noise from elsewhere is another check's matter
        torch.default_generator.manual_seed(step)
        with restricted(method, tasks.tolist()):
            update = copied(method.aggregate(looked(method, case.view())))
            method.after_step(lambda after=after: after)  # type: ignore[misc]
        yield update
        epoch, done = divmod(step + 1, EPOCH_STEPS)
        if not done:
            mean = losses[step + 1 - EPOCH_STEPS : step + 1].nanmean(0)
            method.on_epoch_end(EPOCH * (epoch - 1), mean)
