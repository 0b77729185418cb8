"""CR-MOGM: any method's weights, averaged over the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtlbench.interfaces import (
    GradientView,
    MethodInfo,
    Nested,
    StepProblem,
    WeightingMethod,
)
from mtlbench.interfaces.gradients import in_double
from mtlbench.registry import METHODS, Spec

LEAST = 1e-3
"""Part of the whole that tasks have at least: others may hold all the weight, and be away."""


class CRMOGM(WeightingMethod):
    r"""The correction of weights of `"On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond" <https://openreview.net/forum?id=ScwfQ7hdwyP>`_, for any method that
    has weights.

    With the weights :math:`\hat\lambda` of the other method,

    .. math:: \lambda_t = \alpha \lambda_{t-1} + (1 - \alpha) \hat\lambda_t, \qquad
        \lambda_1 = \hat\lambda_1

    Heads, passes, further batches and the length for identical tasks are the other method's; what
    that does to its update beside weighting (Nash-MTL's ``max_norm``) is not done.

    Departs from the paper, as TorchJD does: :math:`\alpha` is constant, where the theory lets it go
    to 1 as the learning rate falls. A task's average begins with its first weight, and rests while
    it has no label. Where the weights share something out (``scale`` is "mean"), a step with some
    of the tasks moves their averages among themselves, and their part of the whole is kept.

    Args:
        n_tasks: K.
        method: the other method; its options follow with colons: ``method=cagrad:c=0.2:refresh=2``.
        alpha: :math:`\alpha`; 0 is the other method, 1 keeps the first weights.
    """

    info = MethodInfo(
        name="crmogm",
        title="CR-MOGM",
        year=2022,
        head_policy="unit",
        scale="mean",
        backwards="per-task",
        claims=("permutation", "scaling", "identical", "simplex", "stationarity"),
    )
    average: Tensor
    total: Tensor
    begun: Tensor

    def __init__(
        self,
        n_tasks: int,
        *,
        method: Annotated[str, Nested()] = "mgda",
        alpha: Annotated[float, Ge(0), Le(1)] = 0.9,
    ) -> None:
        super().__init__(n_tasks)
        self.alpha, self.other = alpha, METHODS.build(Spec.nested(method), n_tasks)
        if type(self.other).weights is WeightingMethod.weights:
            raise ValueError(f"method={method} has no weights() to average")
        theirs = self.other.info
        vars(self)["info"] = replace(
            self.info,
            head_policy=theirs.head_policy,
            scale=theirs.scale,
            backwards=theirs.backwards,
            whole_rows=theirs.whole_rows,
            extra_forwards=theirs.extra_forwards,
            further=theirs.further,
            claims=tuple(claim for claim in self.info.claims if claim in theirs.claims),
        )
        self.at = self.other.at
        self.register_buffer("average", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))
        self.register_buffer("total", torch.ones((), dtype=torch.float64))  # of all averages
        self.register_buffer("begun", torch.zeros(n_tasks, dtype=torch.bool))
        self._proposed: tuple[Tensor, Tensor] | None = None

    def look(self, problem: StepProblem) -> None:
        self.other.look(problem)

    def weights(self, view: GradientView) -> Tensor:
        found, before = in_double(self.other.weights(view)), self.average.sum()
        if self.info.scale != "mean":
            w = torch.where(self.begun, found.lerp(self.average, self.alpha), found)
            self._proposed = w, self.total
            return w.to(view.losses)
        part = (before / self.total).clamp_min(LEAST)
        w = torch.where(self.begun, found.lerp(self.average / part, self.alpha), found)
        usual = found.sum().lerp(before / part, self.alpha)  # where no task begins
        w = w * torch.where(self.begun.any() & ~self.begun.all(), usual / w.sum(), 1.0)
        self._proposed = w * part, self.total - before + (w * part).sum()
        return w.to(view.losses)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        self.other.after_step(evaluate)
        if self._proposed is not None:
            self.average, self.total = self._proposed
            self.begun, self._proposed = torch.ones_like(self.begun), None

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        self.other.on_epoch_end(epoch, mean_losses)

    def diagnostics(self) -> dict[str, float]:
        return self.other.diagnostics()
