"""Tiny networks, batches and a loss: everything that makes a step hard, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench import InputGroup, MultiTaskModel, Stepper
from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.restrict import restricted
from mtlbench.interfaces import Batch, DenseView, Loss, WeightingMethod
from mtlbench.registry import METHODS as REGISTERED
from mtlbench.registry import SHARPNESS
from mtlbench.testing.findings import global_seed
from mtlbench.testing.steps import Supplied

METHODS = [n for n in REGISTERED.names() if REGISTERED.get(n).info.role != "reference"]
"""All weighting methods; the reference role is a kind of run, in a step it is the sum of losses."""
WRAPPERS = SHARPNESS.names()

WIDTH, FEATURES, OUTPUTS, ROWS = 6, 5, 2, 8

MakeBatch = Callable[..., Batch]


def names(K: int) -> list[str]:
    """Objective names; ``task1`` is a prefix of ``task10``, which must not matter."""
    return [f"task{10 * k if k else 1}" for k in range(K)]


def trunk(outputs: int = FEATURES) -> nn.Module:
    """Batch normalisation and dropout, so that a second forward pass could differ."""
    return nn.Sequential(
        nn.Linear(4, WIDTH),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(WIDTH, outputs),
        nn.Tanh(),
    )


def tiny_model(K: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> MultiTaskModel:
    """K heads, dropout in the trunk and in the first and the last head."""
    with global_seed(seed):
        heads = {
            name: nn.Sequential(
                nn.Dropout(0.2 if k in (0, K - 1) else 0.0), nn.Linear(FEATURES, OUTPUTS)
            )
            for k, name in enumerate(names(K))
        }
        return MultiTaskModel(trunk(), heads).to(dtype)


def single_batch(K: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """One group with K targets."""
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 4, generator=g, dtype=dtype)
    return [InputGroup(inputs, {name: _target(k, g, dtype) for k, name in enumerate(names(K))})]


def multi_batch(K: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """K groups with one target each."""
    g = torch.Generator().manual_seed(seed)
    return [
        InputGroup(torch.randn(ROWS, 4, generator=g, dtype=dtype), {name: _target(k, g, dtype)})
        for k, name in enumerate(names(K))
    ]


def _target(k: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return (k + 1) * torch.randn(ROWS, OUTPUTS, generator=generator, dtype=dtype)


def mse(objective: str, prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).pow(2).mean()


def make_stepper(
    model: MultiTaskModel, method: str = "ls", sharpness: str = "none", **options: Any
) -> Stepper:
    """With plain gradient descent, unless ``optimizer`` names another class."""
    cls = options.pop("optimizer", torch.optim.SGD)
    optimizer = cls(model.parameters(), lr=options.pop("lr", 0.1))
    return Supplied(model, optimizer, method, sharpness, **options)


def make_problem(
    model: MultiTaskModel | Stepper, batch: Batch | None = None, loss: Loss = mse
) -> BatchProblem:
    """A problem as a step would make it; of a model, or of a stepper (which then goes on)."""
    if isinstance(model, Stepper):
        s = model
        batch = single_batch(len(s.objectives)) if batch is None else batch
        return BatchProblem(s.model, s.flat, batch, s.objectives, loss, s.generator, s.passes)
    objectives = list(model.heads)
    batch = single_batch(len(objectives)) if batch is None else batch
    flat = FlatParameters(model, objectives)
    return BatchProblem(model, flat, batch, objectives, loss, torch.Generator().manual_seed(0))


def passes_of_a_step(stepper: Stepper, batch: Batch) -> tuple[int, int, int]:
    """Trains one step: forward and backward passes, and backward passes through heads alone."""
    before = copy.copy(stepper.passes)
    stepper.step(batch, mse)
    after = stepper.passes
    return (
        after.forward - before.forward,
        after.backward - before.backward,
        after.head_backward - before.head_backward,
    )


def run_wrapper(stepper: Stepper, problem: BatchProblem) -> None:
    """What a step does before it writes anything."""
    stepper.wrapper.update(problem, *(method.aggregate for method in stepper.methods))


def displacements(stepper: Stepper, batch: Batch | None = None, loss: Loss = mse) -> list[Tensor]:
    """Where each forward pass of a wrapper's update takes place, relative to the parameters."""
    before, seen = stepper.flat.data.clone(), list[Tensor]()
    hook = stepper.model.shared.register_forward_hook(
        lambda *_: seen.append(stepper.flat.data - before)
    )
    run_wrapper(stepper, make_problem(stepper, batch, loss))
    hook.remove()
    return seen


def dense_view(K: int = 3, P: int = 7, *, seed: int = 0) -> DenseView:
    """Random gradients, and losses from 1 to K."""
    g = torch.Generator().manual_seed(seed)
    J = torch.randn(K, P, generator=g).double()
    heads = [torch.randn(2, generator=g).double() for _ in range(K)]
    return DenseView(torch.arange(1.0, K + 1).double(), J, heads, g)


def aggregate_part(method: WeightingMethod, tasks: list[int], seed: int) -> Tensor:
    """A step on :func:`dense_view` in which these tasks alone have a label: its shared update."""
    whole = dense_view(seed=seed)
    heads = [whole.head_grads()[k] for k in tasks]
    view = DenseView(whole.losses[tasks], whole.jacobian()[tasks], heads, whole.generator)
    with restricted(method, tasks):
        shared = method.aggregate(view).shared
        method.after_step(lambda: torch.ones(3))
    return shared


def params_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers()}


def same(a: Any, b: Any) -> bool:
    """Bit equality of nested states."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def snapshot(*states: Any) -> list[Any]:
    return copy.deepcopy(list(states))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to ``tolerance`` of the expected vector's norm."""
    assert actual.shape == expected.shape
    error = (actual - expected).norm()
    assert error <= tolerance * expected.norm().clamp_min(1e-12), f"{error} of {expected.norm()}"


# ------------------------------------------------------------------------------ special networks
class OwnWeight(nn.Module):
    """A head that applies a given parameter beside its own layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.own = nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.own(x) + x @ self.weight
        return out


class Pair(nn.Module):
    """A trunk whose second output is computed from its first."""

    def __init__(self, *, dependent: bool) -> None:
        super().__init__()
        self.first, self.second = trunk(), nn.Linear(FEATURES if dependent else 4, FEATURES)
        self.dependent = dependent

    def forward(self, x: Tensor) -> dict[str, Any]:
        first = self.first(x)
        return {"first": first, "rest": (self.second(first if self.dependent else x).tanh(), "x")}


class PairHead(nn.Module):
    def __init__(self, *, uses: Sequence[int]) -> None:
        super().__init__()
        self.uses, self.own = uses, nn.Linear(FEATURES, OUTPUTS)

    def forward(self, features: dict[str, Any]) -> Tensor:
        both = (features["first"], features["rest"][0])
        out: Tensor = self.own(sum(both[i] for i in self.uses))
        return out


def _plain() -> MultiTaskModel:
    return tiny_model()


def _frozen() -> MultiTaskModel:
    """A frozen layer in the trunk, and a head that is frozen altogether."""
    model = tiny_model()
    model.get_submodule("shared.0").requires_grad_(False)
    model.heads[names(3)[1]].requires_grad_(False)
    return model


def _tied_heads() -> MultiTaskModel:
    weight = nn.Parameter(torch.randn(FEATURES, OUTPUTS))
    first, second, third = names(3)
    heads = {first: OwnWeight(weight), second: OwnWeight(weight), third: nn.Linear(FEATURES, 2)}
    return MultiTaskModel(trunk(), heads)


def _tied_to_trunk() -> MultiTaskModel:
    body = nn.Sequential(trunk(OUTPUTS), nn.Linear(OUTPUTS, FEATURES, bias=False))
    weight = next(body[1].parameters())
    first, *others = names(3)
    return MultiTaskModel(
        body, {first: OwnWeight(weight)} | {n: nn.Linear(FEATURES, 2) for n in others}
    )


def _unused() -> MultiTaskModel:
    """Two trunk outputs; the first task uses one of them only."""
    uses = ([0], [0, 1], [1])
    heads = {n: PairHead(uses=u) for n, u in zip(names(3), uses, strict=True)}
    return MultiTaskModel(Pair(dependent=False), heads)


def _multi_scale() -> MultiTaskModel:
    """As :func:`_unused`, and the second trunk output is computed from the first."""
    uses = ([0], [0, 1], [1])
    heads = {n: PairHead(uses=u) for n, u in zip(names(3), uses, strict=True)}
    return MultiTaskModel(Pair(dependent=True), heads)


VARIANTS = {
    "plain": _plain,
    "frozen": _frozen,
    "tied heads": _tied_heads,
    "tied to trunk": _tied_to_trunk,
    "unused": _unused,
    "multi-scale": _multi_scale,
}


def variant(name: str) -> MultiTaskModel:
    """A special network, seeded, in double precision."""
    with global_seed(1):
        return VARIANTS[name]().double()
