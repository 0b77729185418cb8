"""Sharpness wrappers: where each task's gradient is taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch.optim import Optimizer

from mtlbench.interfaces.batch import Batch, Loss
from mtlbench.interfaces.gradients import GradientView, Passes, Update
from mtlbench.interfaces.methods import Claim, WeightingMethod
from mtlbench.interfaces.models import MultiTaskModel
from mtlbench.interfaces.options import Stateful
from mtlbench.interfaces.problem import StepProblem


@dataclass(frozen=True)
class SharpnessInfo:
    """What a wrapper declares about itself; ``identity`` marks the one that changes nothing,
    ``version`` is as a method's."""

    name: str
    title: str
    year: int = 0
    arxiv: str = ""
    identity: bool = False
    version: int | None = None


PlainStep = Callable[
    [MultiTaskModel, Optimizer, WeightingMethod, Batch, Loss], Callable[[], object]
]
"""Makes a training step of its own from a network, its optimizer, a method, a batch and a loss."""


class SharpnessWrapper(Stateful, ABC):
    """Changes where each task's gradient is taken, for any weighting method."""

    info: ClassVar[SharpnessInfo]
    parts: int = 1
    """Gradient families that are aggregated apart, each with its own copy of the method."""
    expects: tuple[Claim, ...] = ()
    """What a method should claim for this wrapper to do what it is meant to."""
    common_point: bool = True
    """Whether all gradients are taken at one point, and so have a common trunk output."""
    at_most: bool = False
    """Whether a step may cost less than :meth:`passes` says, as its gradients have it."""

    @abstractmethod
    def update(self, problem: StepProblem, *aggregate: Callable[[GradientView], Update]) -> Update:
        """The update of one step; ``aggregate`` has ``parts`` entries."""

    @abstractmethod
    def passes(self, n_tasks: int, method: Passes) -> Passes:
        """What the coming step costs, on inputs that all tasks share; with ``at_most``, a bound.

        Args:
            n_tasks: K.
            method: what a step of the method costs by itself.
        """

    def after_step(self) -> None:
        """Advance the state; called once a step, after the optimizer has moved."""
