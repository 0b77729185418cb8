"""The optimisation problem of one training step: a fixed batch, fixed randomness and movable
parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves, tree_map

from mtlbench.errors import UsageError
from mtlbench.flat import FlatParameters, GradientRows, Move
from mtlbench.interfaces import Batch, GradientView, HeadPolicy, Loss, Update
from mtlbench.model import MultiTaskModel


class NonFiniteError(ArithmeticError):
    """A loss of the step is NaN or infinite: there is nothing to learn from it."""


@dataclass
class Passes:
    """Counts of what a run computed: passes through the trunk, and backward passes through heads
    alone."""

    forward: int = 0
    backward: int = 0
    head_backward: int = 0


@dataclass
class Forward:
    """One forward pass: losses (K',) with their graph, and for each of them the trunk's output
    tensors."""

    losses: Tensor
    features: list[list[Tensor]]


class StepProblem:
    """Losses of one batch as a function of the parameters.

    The first forward pass is the real one: it updates normalisation statistics and advances the
    random number generator. Later ones leave the statistics alone and draw the same numbers again
    (dropout), so that all of them evaluate one function.

    Args:
        model: the network.
        flat: its parameters.
        batch: one or more input groups that together hold a target for each objective.
        objectives: the K task names.
        loss: ``loss(objective, prediction, target)``.
        generator: source of perturbation noise, on the parameters' device.
        passes: counters to add to.

    Raises:
        UsageError: the batch lacks an objective's target.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        flat: FlatParameters,
        batch: Batch,
        objectives: Sequence[str],
        loss: Loss,
        generator: torch.Generator,
        passes: Passes | None = None,
    ) -> None:
        self.model, self.flat, self.batch = model, flat, batch
        self.objectives, self.loss, self.generator = list(objectives), loss, generator
        self.passes = Passes() if passes is None else passes
        missing = set(objectives).difference(*(group.targets for group in batch))
        if missing:
            raise UsageError(f"the batch has no target for {', '.join(sorted(missing))}")
        self._randomness = _Randomness(flat.data.device)
        self._first = True
        self._layers = [m for m in model.modules() if isinstance(m, _NormBase)]
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self.first_losses: Tensor | None = None
        """Losses (K,) of the first view: at the unperturbed point, before the step."""
        flat.begin_step()

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.objectives)

    def losses(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses of the objectives ``only`` (all by default), with their graph; other heads do not
        run."""
        return self.forward(only).losses

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        """One forward pass of every input group that a wanted objective needs."""
        wanted = self.objectives if only is None else list(only)
        losses: dict[str, Tensor] = {}
        features: dict[str, list[Tensor]] = {}
        with self._one_function():
            for index, group in enumerate(self.batch):
                names = [name for name in wanted if name in group.targets]
                if not names:
                    continue
                self.passes.forward += 1
                self._randomness.enter(index)
                trunk = tree_map(_alias, self.model.shared(group.inputs))
                before_head = partial(self._randomness.enter, index)
                outputs = self.model.predict(trunk, names, before_head)
                for name in names:
                    losses[name] = self.loss(name, outputs[name], group.targets[name])
                    features[name] = _differentiable(trunk)
        return Forward(torch.stack([losses[n] for n in wanted]), [features[n] for n in wanted])

    def view(self, losses: Tensor | None = None) -> PlainView:
        """Gradients at the present point.

        Args:
            losses: what the view shows as its losses; those of the present point by default. A
                wrapper that has moved the parameters passes the losses of the unperturbed point.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        return PlainView(self, losses)

    def view_at(self, losses: Tensor, move: Callable[[int], Sequence[Move]]) -> ShiftedView:
        """Gradients each taken at a point of its own.

        Args:
            losses: losses at the unperturbed point, (K,).
            move: task index to the displacement of that task's point; called once a task, when it
                is needed.
        """
        return ShiftedView(self, losses, move)

    @torch.no_grad()
    def evaluate(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses at the present point, without a graph."""
        return self.losses(only)

    def undo_statistics(self) -> None:
        """Running statistics of normalisation as before the step, for a step that is skipped."""
        for buffer, before in self._statistics:
            buffer.copy_(before)

    @contextmanager
    def _one_function(self) -> Iterator[None]:
        if self._first:
            self._first = False
            self._statistics = [(b, b.clone()) for m in self._layers for b in m.buffers()]
            yield
            self._randomness.settle()
            return
        with frozen_statistics(self._layers), self._randomness.replayed():
            yield


class _Randomness:
    """States of the global random number generators at each stage of a forward pass."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        self._states: dict[tuple[int, str | None], list[Tensor]] = {}
        self._unused = False

    def enter(self, group: int, head: str | None = None) -> None:
        """Note the state on the first arrival at a stage, bring it back on every later one."""
        if self._unused:
            return
        known = self._states.get((group, head))
        if known is None:
            self._states[group, head] = self._now()
            return
        torch.set_rng_state(known[0])
        for device, state in zip(self._cuda, known[1:], strict=True):
            torch.cuda.set_rng_state(state, device)

    def settle(self) -> None:
        """After the first forward pass: where it drew nothing, there is nothing to replay."""
        start = next(iter(self._states.values()))
        self._unused = all(map(torch.equal, start, self._now()))

    def _now(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(device) for device in self._cuda]
        return [torch.get_rng_state(), *cuda]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Leave the global generators as they were."""
        if self._unused:
            yield
            return
        with torch.random.fork_rng(devices=self._cuda):
            yield


@contextmanager
def frozen_statistics(layers: Sequence[_NormBase]) -> Iterator[None]:
    """Normalise as each layer's mode says but leave the running statistics alone."""
    training = [m for m in layers if m.training]
    before = [(m.track_running_stats, m.running_mean, m.running_var) for m in training]
    try:
        for m in training:
            m.track_running_stats, m.running_mean, m.running_var = False, None, None
        yield
    finally:
        for m, state in zip(training, before, strict=True):
            m.track_running_stats, m.running_mean, m.running_var = state


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, every module's own mode again afterwards."""
    before = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for m, mode in before:
            m.training = mode


def _alias(leaf: Any) -> Any:
    """A trunk output as the heads see it, apart from others that the trunk computes from it."""
    return leaf.view_as(leaf) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf


def _differentiable(structure: Any) -> list[Tensor]:
    leaves = tree_leaves(structure)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


# ------------------------------------------------------------------------------------ views
class DenseView(GradientView):
    """A view whose gradients are known.

    Args:
        losses: (K,).
        jacobian: (K, P).
        heads: K vectors.
        generator: source of randomness.
    """

    def __init__(
        self, losses: Tensor, jacobian: Tensor, heads: Sequence[Tensor], generator: torch.Generator
    ) -> None:
        self.losses, self.generator = losses, generator
        self._jacobian, self._heads = jacobian, heads

    def jacobian(self) -> Tensor:
        return self._jacobian

    def head_grads(self) -> Sequence[Tensor]:
        return self._heads

    def representation_jacobian(self) -> Tensor:
        raise UsageError("this view knows no gradients at the trunk's output; use at='shared'")

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        return _product(weights.detach(), self.jacobian(), self.head_grads(), heads)


def _product(w: Tensor, jacobian: Tensor, grads: Sequence[Tensor], heads: HeadPolicy) -> Update:
    own = list(grads) if heads == "unit" else [w_k * h for w_k, h in zip(w, grads, strict=True)]
    return Update(w @ jacobian, own, w)


class PlainView(GradientView):
    """All gradients at one point: nothing, one backward pass, or K of them, by demand."""

    def __init__(self, problem: StepProblem, losses: Tensor | None = None) -> None:
        self._problem, self._point = problem, problem.flat.point
        self._graph: Forward | None = problem.forward()
        here = self._graph.losses.detach()
        if not torch.isfinite(here).all():
            raise NonFiniteError(_name_non_finite(problem.objectives, here))
        if problem.first_losses is None:
            problem.first_losses = here
        self.losses = here if losses is None else losses
        self.generator = problem.generator
        self._rows: GradientRows | None = None
        self._representation: tuple[Tensor, list[Tensor]] | None = None

    def _take_graph(self, *, keep: bool) -> Forward:
        """The forward pass; made again if an earlier question has used it up."""
        if self._problem.flat.point != self._point:
            raise RuntimeError("a gradient view was used after the parameters left its point")
        graph = self._problem.forward() if self._graph is None else self._graph
        self._graph = graph if keep else None
        return graph

    def _dense(self) -> GradientRows:
        if self._rows is None:
            K = self.n_tasks
            rows, losses = self._problem.flat.rows(K), self._take_graph(keep=False).losses
            for k in range(K):
                rows.bind(k)
                losses[k].backward(retain_graph=k < K - 1)
            self._problem.passes.backward += K
            self._rows = rows
        return self._rows

    def _at_representation(self) -> tuple[Tensor, list[Tensor]]:
        """``(K, R)`` gradients at the trunk's output, and the heads' gradients."""
        if self._representation is None:
            graph, flat = self._take_graph(keep=True), self._problem.flat
            known = {id(t): t for tensors in graph.features for t in tensors}
            rows, heads = [], []
            for k, params in enumerate(flat.head_params):
                features = graph.features[k]
                grads = torch.autograd.grad(
                    graph.losses[k], [*features, *params], retain_graph=True, materialize_grads=True
                )
                own = {id(t): g for t, g in zip(features, grads, strict=False)}
                parts = [own.get(i, torch.zeros_like(t)).flatten() for i, t in known.items()]
                rows.append(torch.cat(parts) if parts else flat.data.new_zeros(0))
                pieces = [g.flatten() for g in grads[len(features) :]]
                heads.append(torch.cat(pieces) if pieces else flat.data.new_zeros(0))
            self._problem.passes.head_backward += self.n_tasks
            self._representation = torch.stack(rows), heads
        return self._representation

    def jacobian(self) -> Tensor:
        return self._dense().jacobian

    def head_grads(self) -> Sequence[Tensor]:
        if self._rows is None and self._representation is not None:
            return self._representation[1]
        return self._dense().heads

    def representation_jacobian(self) -> Tensor:
        return self._at_representation()[0]

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        w, flat = weights.detach(), self._problem.flat
        if self._rows is not None:
            return _product(w, self._rows.jacobian, self._rows.heads, heads)
        if flat.trunk_only and (heads == "unit" or self._representation is not None):
            return self._combine_at_representation(w, heads)
        if heads == "unit" and bool((w != 1).any()):
            return _product(w, self.jacobian(), self.head_grads(), heads)
        rows = flat.rows(1)
        rows.bind()
        (w * self._take_graph(keep=False).losses).sum().backward()
        self._problem.passes.backward += 1
        return Update(rows.rows[0], rows.heads, w)

    def _combine_at_representation(self, w: Tensor, heads: HeadPolicy) -> Update:
        """Head gradients one by one, then a single backward pass through the trunk."""
        at_output, own = self._at_representation()
        graph = self._take_graph(keep=False)
        features = list({id(t): t for tensors in graph.features for t in tensors}.values())
        pieces = (w @ at_output).split([t.numel() for t in features])
        rows = self._problem.flat.rows(1)
        rows.bind()
        torch.autograd.backward(
            features, [piece.view_as(t) for piece, t in zip(pieces, features, strict=True)]
        )
        self._problem.passes.backward += 1
        scaled = own if heads == "unit" else [w_k * h for w_k, h in zip(w, own, strict=True)]
        return Update(rows.rows[0], scaled, w)


class ShiftedView(GradientView):
    """Row k is the gradient of loss k at the point that ``move(k)`` leads to; rows are kept only if
    asked for."""

    def __init__(
        self, problem: StepProblem, losses: Tensor, move: Callable[[int], Sequence[Move]]
    ) -> None:
        self._problem, self._move = problem, move
        self.losses, self.generator = losses, problem.generator
        self._rows: GradientRows | None = None

    def _differentiate(self, k: int, rows: GradientRows, row: int) -> None:
        problem = self._problem
        with problem.flat.shifted(*self._move(k)):
            rows.bind(row)
            loss = problem.losses([problem.objectives[k]])
            if loss.requires_grad:
                loss.sum().backward()
        problem.passes.backward += 1

    def _dense(self) -> GradientRows:
        if self._rows is None:
            self._rows = self._problem.flat.rows(self.n_tasks)
            for k in range(self.n_tasks):
                self._differentiate(k, self._rows, k)
        return self._rows

    def jacobian(self) -> Tensor:
        return self._dense().jacobian

    def head_grads(self) -> Sequence[Tensor]:
        return self._dense().heads

    def representation_jacobian(self) -> Tensor:
        raise UsageError("gradients at K points have no common trunk output; use at='shared'")

    def combine(self, weights: Tensor, heads: HeadPolicy = "weighted") -> Update:
        w = weights.detach()
        if self._rows is not None:
            return _product(w, self._rows.jacobian, self._rows.heads, heads)
        one, total = self._problem.flat.rows(1), self._problem.flat.rows(1).rows[0]
        for k in range(self.n_tasks):
            one.rows[0].zero_()
            self._differentiate(k, one, 0)
            total.addcmul_(one.rows[0], w[k])
        own = (
            one.heads if heads == "unit" else [w_k * h for w_k, h in zip(w, one.heads, strict=True)]
        )
        return Update(total, own, w)


def _name_non_finite(objectives: Sequence[str], losses: Tensor) -> str:
    bad = [f"{n} = {v}" for n, v in zip(objectives, losses.tolist(), strict=True) if v - v != 0]
    return f"non-finite loss: {', '.join(bad)}"
