"""Tiny networks, batches, losses and methods: all that makes a step hard, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlbench.interfaces import (
    Batch,
    GradientView,
    InputGroup,
    JointLoss,
    MethodInfo,
    MultiTaskModel,
    WeightingMethod,
)
from mtlbench.registry import Spec

WIDTH, FEATURES, OUTPUTS, ROWS = 6, 5, 2, 8


class SumOfGradients(WeightingMethod):
    """Asks for nothing: one backward pass."""

    info = MethodInfo("sum", "Sum of gradients", 0, scale="sum", claims=("scaling",))

    def weights(self, view: GradientView) -> Tensor:
        return torch.ones_like(view.losses)


class UnitGradients(WeightingMethod):
    """The sum of the unit gradients, at the mean length: reads the Gramian."""

    info = MethodInfo(
        "unit", "Unit gradients", 0, scale="sum", backwards="per-task", claims=("scaling",)
    )

    def weights(self, view: GradientView) -> Tensor:
        norms = view.gramian().diagonal().sqrt()
        return torch.where(norms > 0, norms.mean() / norms, 0.0)


OWN_METHODS = [Spec(f"{cls.__module__}:{cls.__name__}") for cls in (SumOfGradients, UnitGradients)]
"""Weighting methods to try a wrapper with: one of each cost."""


# ---------------------------------------------------------------------------------------- networks
class _Off(nn.Module):
    """A layer whose gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 0 * self.layer(x)
        return out


class _Sum(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part(x) for part in self.parts]).sum(0)


class _Tied(nn.Module):
    """A head that applies a given parameter beside its own layer."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.own = weight, nn.Linear(FEATURES, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.own(x) + x @ self.weight
        return out


def _trunk(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, WIDTH),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(WIDTH, FEATURES),
        nn.Tanh(),
    )


def _plain(names: list[str]) -> MultiTaskModel:
    heads = {n: nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, OUTPUTS)) for n in names}
    return MultiTaskModel(_trunk(0.3), heads)


def _without_dropout(names: list[str]) -> MultiTaskModel:
    return MultiTaskModel(_trunk(0.0), {n: nn.Linear(FEATURES, OUTPUTS) for n in names})


def _zero_layer(names: list[str]) -> MultiTaskModel:
    return MultiTaskModel(
        _Sum(_trunk(0.3), _Off()), {n: nn.Linear(FEATURES, OUTPUTS) for n in names}
    )


def _frozen(names: list[str]) -> MultiTaskModel:
    """A frozen layer in the trunk, and a head that is frozen altogether."""
    model = _plain(names)
    model.get_submodule("shared.0").requires_grad_(False)
    model.heads[names[-1]].requires_grad_(False)
    return model


def _tied(names: list[str]) -> MultiTaskModel:
    weight = nn.Parameter(torch.randn(FEATURES, OUTPUTS))
    return MultiTaskModel(_trunk(0.3), {n: _Tied(weight) for n in names})


class _Joint(MultiTaskModel):
    """Linear heads, computed by one matrix product where several are asked for."""

    def predict(
        self,
        features: Any,
        objectives: Sequence[str],
        before_head: Callable[[str], object] = lambda name: None,
    ) -> dict[str, Tensor]:
        if len(objectives) == 1:
            return super().predict(features, objectives, before_head)
        weights = torch.cat([self.heads[n].get_parameter("weight") for n in objectives])
        biases = torch.cat([self.heads[n].get_parameter("bias") for n in objectives])
        parts = nn.functional.linear(features, weights, biases).split(OUTPUTS, dim=1)
        return dict(zip(objectives, parts, strict=True))


def joint_heads(names: list[str]) -> MultiTaskModel:
    """The network without dropout in its heads, all of which are one matrix product."""
    return _Joint(_trunk(0.3), {n: nn.Linear(FEATURES, OUTPUTS) for n in names})


class _Noted(torch.autograd.Function):
    """The identity, which notes that a backward pass came through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noted: Counter[str], name: str) -> Tensor:
        ctx.noted, ctx.name = noted, name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.noted[ctx.name] += 1
        return gradients[0], None, None


TRUNK = "the trunk"


def traversals(model: MultiTaskModel) -> Counter[str]:
    """Counts, from now on, how often autograd comes through the output of the trunk and of each
    head; both are tensors."""
    noted: Counter[str] = Counter()
    for name, module in {TRUNK: model.shared, **model.heads}.items():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: _Noted.apply(output, noted, name)
        )
    return noted


NETWORKS: dict[str, Callable[[list[str]], MultiTaskModel]] = {
    "batch normalisation and dropout": _plain,
    "no dropout": _without_dropout,
    "a layer of zero gradient": _zero_layer,
    "frozen parameters": _frozen,
    "tied parameters": _tied,
}
PLAIN, WITHOUT_DROPOUT, *_ = NETWORKS


# ----------------------------------------------------------------------------- batches and losses
def objectives(K: int) -> list[str]:
    """Names one of which begins another, which must not matter."""
    return [f"task{10 * k if k else 1}" for k in range(K)]


def batch(K: int, *, seed: int = 0, single: bool = True, like: Tensor | None = None) -> Batch:
    """One group with K targets, or K groups with one target each.

    Args:
        K: number of tasks.
        seed: of the numbers.
        single: whether the tasks share their inputs.
        like: whose dtype and device to take.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn if like is None else drawn.to(like)

    targets = {name: (k + 1) * draw(ROWS, OUTPUTS) for k, name in enumerate(objectives(K))}
    if single:
        return [InputGroup(draw(ROWS, 4), targets)]
    return [InputGroup(draw(ROWS, 4), {name: target}) for name, target in targets.items()]


def squared(objective: str, prediction: Any, target: Tensor) -> Tensor:
    """Mean squared error."""
    error: Tensor = prediction - target
    return error.square().mean()


class JointlySquared(JointLoss):
    """:func:`squared`, of all objectives at once."""

    def together(self, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Tensor:
        errors = torch.stack([p - targets[name] for name, p in predictions.items()])
        return errors.square().flatten(1).mean(1)


def vanishing(objective: str, prediction: Any, target: Tensor) -> Tensor:
    """The first task is solved: its gradient is zero."""
    value = squared(objective, prediction, target)
    return 0 * value if objective == objectives(1)[0] else value


def constant(objective: str, prediction: Any, target: Tensor) -> Tensor:
    """All tasks are solved."""
    return 0 * squared(objective, prediction, target)


def infinite(objective: str, prediction: Any, target: Tensor) -> Tensor:
    """The first task's loss is not finite."""
    value = squared(objective, prediction, target)
    return value * torch.inf if objective == objectives(1)[0] else value


def without_gradient(objective: str, prediction: Any, target: Tensor) -> Tensor:
    """Finite losses whose gradients are not."""
    zero: Tensor = (0 * prediction).abs().sum()
    return squared(objective, prediction, target) + zero.sqrt()


class LossError(Exception):
    """What :class:`Raising` raises."""


class Raising:
    """A loss that raises at the call with index ``at``, and counts its calls."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.calls = at, 0

    def __call__(self, objective: str, prediction: Any, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise LossError
        return squared(objective, prediction, target)
