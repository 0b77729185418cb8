"""Auto-Lambda: weights that make one step lower the loss on data that it was not taken on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveFloat
from torch import Tensor, nn

from mtlbench.errors import UsageError
from mtlbench.interfaces import (
    Further,
    GradientView,
    MethodInfo,
    StepProblem,
    Update,
    WeightingMethod,
)
from mtlbench.methods._adam import TaskAdam

START = 0.1
SPAN = 0.01
"""Length of the displacements whose losses are subtracted."""
RATES = {"paper": 1e-4, "libmtl": 1e-3}


class AutoLambda(WeightingMethod):
    r"""`"Auto-Lambda: Disentangling Dynamic Task Relationships"
    <https://arxiv.org/abs/2202.03091>`_.

    With the optimizer's learning rate :math:`\eta`, momentum :math:`\beta m` and weight decay
    :math:`\gamma`, L the losses of the batch, L' those of a batch that is held out, and
    :math:`\mathcal P` the primary tasks,

    .. math:: \theta' = \theta - \eta \Big( \beta m + \nabla \sum_k \lambda_k L_k
        + \gamma \theta \Big), \qquad d = \nabla \sum_{k \in \mathcal P} L'_k(\theta'), \qquad
        \frac{\partial}{\partial \lambda_k} = - \eta
        \frac{L_k(\theta + \epsilon d) - L_k(\theta - \epsilon d)}{2 \epsilon}, \quad
        \epsilon = \frac{0.01}{\lVert d \rVert}

    on trunk and heads together. The weights :math:`\lambda` are free, begin at 0.1, move by Adam
    and weight the same step's losses.

    As in the authors' code, momentum is SGD's alone: with Adam, :math:`\theta'` is a plain step at
    its learning rate. Where learning rates differ, each parameter's counts.

    Costs 4 forward and 2 backward passes a step more, see :class:`~mtlbench.interfaces.Further`.

    Args:
        n_tasks: K.
        primary: names of the tasks that count, separated by slashes; all if empty. In a step in
            which none of them has a label the weights stay.
        variant: "paper", or "libmtl", as LibMTL has it: :math:`\lambda` is the softmax of logits
            that begin equal and move by Adam at 1e-3.
        lr: Adam's learning rate, instead of the variant's.
        held_out: share of the training data that L' is taken on.
    """

    info = MethodInfo(
        name="autolambda",
        title="Auto-Lambda",
        year=2022,
        arxiv="2202.03091",
        head_policy="weighted",
        claims=("permutation",),
        further=Further(1, held_out=0.1, forwards=4, backwards=2),
    )

    def __init__(
        self,
        n_tasks: int,
        *,
        primary: str = "",
        variant: Literal["paper", "libmtl"] = "paper",
        lr: PositiveFloat | None = None,
        held_out: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__(n_tasks)
        self.hold_out(held_out)
        self.primary, self.softmax = tuple(filter(None, primary.split("/"))), variant == "libmtl"
        self.values = nn.Parameter(torch.full((n_tasks,), 0.0 if self.softmax else START))
        self.optimizer = TaskAdam([self.values], RATES[variant] if lr is None else lr)
        self._slope: Tensor | None = None

    def _weights(self, values: Tensor) -> Tensor:
        return values.detach().softmax(0) if self.softmax else values.detach()

    def look(self, problem: StepProblem) -> None:
        flat, (others,) = problem.flat, problem.further
        primary = self._primary(problem)
        if primary is not None:
            lam = self._weights(self.values)
            step = problem.ahead(problem.view().combine(lam.to(primary)))
            with flat.shifted(*flat.along(step, 1.0)):
                d = others.view().combine(primary)
            slope = derivative(problem, problem.ahead(d, bare=True)).to(lam)
            self._slope = lam * (slope - lam @ slope) if self.softmax else slope

    def _primary(self, problem: StepProblem) -> Tensor | None:
        """Which of the step's tasks count, (K,); None if none of them does."""
        if not self.primary:
            return problem.flat.data.new_ones(problem.n_tasks)
        absent = [name for name in self.primary if name not in problem.objectives]
        unknown = [name for name in absent if name not in problem.model.heads]
        if unknown:
            valid = ", ".join(problem.model.heads)
            raise UsageError(f"autolambda:primary: no task is called {unknown[0]!r}; {valid}")
        counts = [float(name in self.primary) for name in problem.objectives]
        return problem.flat.data.new_tensor(counts) if any(counts) else None

    def weights(self, view: GradientView) -> Tensor:
        slope = self._slope
        values = self.values if slope is None else self.optimizer.peek(self.values, slope)
        return self._weights(values).to(view.losses, copy=True)

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        if self._slope is not None:
            self.values.grad, self._slope = self._slope, None
            self.optimizer.step()


def derivative(problem: StepProblem, direction: Update) -> Tensor:
    """Derivatives (K,) of the losses along a direction, by central differences."""
    flat = problem.flat
    size = torch.stack([v.norm() for v in (direction.shared, *direction.heads)]).norm()
    factor = torch.where(size > 0, SPAN / size, 0.0)
    with flat.shifted(*flat.along(direction, factor)) as shift:
        above = problem.evaluate()
        shift(*flat.along(direction, -factor))
        below = problem.evaluate()
    found: Tensor = (above - below) * (size / (2 * SPAN))
    return found
