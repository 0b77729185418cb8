"""What a step is measured against: the step one would write by hand, and the step's own passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench.bench.workloads import Workload
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.step import train_step
from mtlbench.engine.views import Forward
from mtlbench.errors import UsageError
from mtlbench.interfaces import DenseView, Update
from mtlbench.registry import METHODS
from mtlbench.training.stepper import Stepper

LONGEST_PERIOD = 100


class HandWritten:
    """The step that one would write for one method and no wrapper: the engine's yardstick.

    One backward pass, or K into rows that are allocated once; no checks, no lazy views. The
    method's own work is part of it.

    Args:
        work: what to train.
        method: name and options.
    """

    def __init__(self, work: Workload, method: str) -> None:
        self.work, self.model = work, work.build()
        self.objectives = list(self.model.heads)
        self.optimizer = work.optimize(self.model)
        self.shared, self.heads = self.model.parameter_roles(self.objectives)
        self.method = METHODS.build(method, len(self.objectives)).to(work.device)
        info = self.method.info
        if info.further:
            raise UsageError(f"{info.name} looks at further batches: no step of it is hand-written")
        self.per_task = info.backwards == "per-task" or info.head_policy == "unit"
        self.generator = torch.Generator(work.device).manual_seed(0)
        K, P = len(self.objectives), sum(p.numel() for p in self.shared)
        self.jacobian = self.shared[0].new_zeros(K, P)
        self._rows = [_pieces(row, self.shared) for row in self.jacobian]
        self.head_grads = [p[0].new_zeros(sum(q.numel() for q in p)) for p in self.heads]
        self._head_rows = [
            _pieces(vector, params)
            for vector, params in zip(self.head_grads, self.heads, strict=True)
        ]

    def losses(self, only: Sequence[str] | None = None) -> list[Tensor]:
        """Losses of these objectives, by default of all, each with a graph of its own."""
        wanted = self.objectives if only is None else only
        found = {}
        for group in self.work.batch:
            names = [name for name in wanted if name in group.targets]
            if names:
                outputs = self.model(group.inputs, names)
                for name in names:
                    found[name] = self.work.loss(name, outputs[name], group.targets[name])
        return [found[name] for name in wanted]

    def graphs(self, only: Sequence[str] | None) -> int:
        """How many graphs of the trunk these objectives' losses have: one an input group."""
        wanted = set(self.objectives if only is None else only)
        return sum(not wanted.isdisjoint(group.targets) for group in self.work.batch)

    def backwards(self, losses: Sequence[Tensor]) -> None:
        """K backward passes into the rows."""
        last = len(losses) - 1
        for k, loss in enumerate(losses):
            params = [*self.shared, *self.heads[k]]
            grads = torch.autograd.grad(loss, params, retain_graph=k < last, materialize_grads=True)
            with torch.no_grad():  # which older releases of torch insist on for views made so
                torch._foreach_copy_([*self._rows[k], *self._head_rows[k]], grads)

    def aggregate(self, losses: Tensor) -> Update:
        """The method on the rows."""
        view = DenseView(losses, self.jacobian, self.head_grads, self.generator)
        return self.method.aggregate(view)

    def weights(self, losses: Tensor) -> Tensor:
        """The method on the losses alone."""
        return self.method.weights(DenseView(losses, self.jacobian, [], self.generator))

    def write(self, update: Update) -> None:
        """Give the optimizer its gradients."""
        groups = zip([self.shared, *self.heads], [update.shared, *update.heads], strict=True)
        for params, vector in groups:
            for p, piece in zip(params, _pieces(vector, params), strict=True):
                p.grad = piece

    def __call__(self) -> None:
        """One step."""
        losses = self.losses()
        if self.per_task:
            self.backwards(losses)
            self.write(self.aggregate(torch.stack(losses).detach()))
        else:
            together = torch.stack(losses)
            weights = self.weights(together.detach())
            self.optimizer.zero_grad()
            (weights * together).sum().backward()
        self.optimizer.step()
        self.method.after_step(torch.no_grad()(lambda: torch.stack(self.losses())))


def _pieces(vector: Tensor, params: Sequence[nn.Parameter]) -> list[Tensor]:
    pieces = vector.split([p.numel() for p in params])
    return [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]


@dataclass
class Pass:
    """A forward pass and the backward passes through its graph.

    Args:
        objectives: whose losses; None for all.
        graph: whether gradients are recorded.
        training: mode of the network.
        backward: how many backward passes.
    """

    objectives: Sequence[str] | None
    graph: bool
    training: bool
    backward: int = 0


class TracedProblem(BatchProblem):
    """Notes its passes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._trace: list[Pass] = []
        self._counted = replace(self.passes)

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        self.trace()
        self._trace.append(Pass(only, torch.is_grad_enabled(), self.model.training))
        return super().forward(only)

    def trace(self) -> list[Pass]:
        """The passes so far; a backward pass goes with the last forward pass that kept a graph."""
        if self.passes.head_backward:
            raise UsageError("backward passes through heads alone cannot be timed alone")
        if backward := self.passes.backward - self._counted.backward:
            next(p for p in reversed(self._trace) if p.graph).backward += backward
        self._counted = replace(self.passes)
        return self._trace


def period(stepper: Stepper) -> int:
    """Number of steps after which the costs that the wrapper declares begin again."""
    K, alone = len(stepper.objectives), stepper.methods[0].info.passes(len(stepper.objectives))
    wrapper, declared = copy.deepcopy(stepper.wrapper), []
    for _ in range(LONGEST_PERIOD):
        declared.append(wrapper.passes(K, alone))
        wrapper.after_step()
    return next(n for n in range(1, LONGEST_PERIOD + 1) if declared[n:] == declared[:-n])


def passes(work: Workload, method: str, sharpness: str) -> list[Callable[[], object]]:
    """What a period of steps with a wrapper cannot do without: its passes, the method on what they
    yield, the optimizer's steps. Found by tracing the first steps."""
    stepper = work.stepper(method, sharpness)
    training, evaluating, updating = (HandWritten(work, method) for _ in range(3))
    evaluating.model.eval()
    updating.backwards(updating.losses())
    losses = torch.stack(updating.losses()).detach()
    updating.write(updating.aggregate(losses))
    calls: list[Callable[[], object]] = []
    for _ in range(period(stepper)):
        problem = TracedProblem(
            stepper.model,
            stepper.flat,
            work.batch,
            stepper.objectives,
            work.loss,
            stepper.generator,
        )
        train_step(problem, stepper.methods, stepper.wrapper, stepper.optimizer)
        trace = problem.trace()
        calls += [partial(run_pass, training if p.training else evaluating, p) for p in trace]
        known = [n for p in trace if (n := len(p.objectives or losses)) == p.backward]
        method_alone = updating.aggregate if sum(known) >= len(losses) else updating.weights
        calls += [partial(method_alone, losses)] * stepper.wrapper.parts
        calls.append(updating.optimizer.step)
    return calls


def run_pass(hand: HandWritten, p: Pass) -> None:
    """One pass of a trace, on a network of its own; K backward passes fill the K rows."""
    with torch.set_grad_enabled(p.graph):
        losses = hand.losses(p.objectives)
    if 1 < p.backward == len(losses):
        hand.backwards(losses)
    elif p.backward:
        hand.optimizer.zero_grad()
        rounds = p.backward // hand.graphs(p.objectives)
        for i in range(rounds):
            torch.stack(losses).sum().backward(retain_graph=i < rounds - 1)
