"""Weighting methods: how the K gradients become one."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlbench.errors import UsageError
from mtlbench.interfaces.gradients import (
    GradientView,
    GramianPoint,
    HeadPolicy,
    Passes,
    Update,
    check_vector,
)
from mtlbench.interfaces.options import Stateful
from mtlbench.interfaces.problem import StepProblem

Claim = Literal[
    "permutation", "scaling", "row-scaling", "identical", "simplex", "non-conflict", "stationarity"
]
"""A property that a method may claim, and is then held to by ``mtlbench check``:

- ``permutation``: the order of the tasks does not matter,
- ``scaling``: c J yields c times the update of J,
- ``row-scaling``: the lengths of the rows of J do not change the update's direction,
- ``identical``: K identical tasks yield what ``MethodInfo.scale`` says, to the length,
- ``simplex``: weights are at least 0 and sum to 1,
- ``non-conflict``: no task's loss grows, to first order,
- ``stationarity``: the update is not zero where a direction lowers all losses.
"""


@dataclass(frozen=True)
class Further:
    """Batches that a method looks at in each step beside the one that it trains on.

    Args:
        count: how many.
        held_out: share of the training examples that they are drawn from, and that no step trains
            on then; 0 if they are further batches of all the training examples. Never are they
            examples that epochs are selected on, or tested on.
        forwards: forward passes of a look, of whatever batches.
        backwards: backward passes of a look.
        backwards_per_task: further ones, for each task.
    """

    count: int
    held_out: float = 0.0
    forwards: int = 0
    backwards: int = 0
    backwards_per_task: int = 0

    @property
    def where_from(self) -> str:
        """In words."""
        return "held out of the training data" if self.held_out else "of the training data"


@dataclass(frozen=True)
class MethodInfo:
    """What a weighting method declares about itself.

    Args:
        name: registry name, the file's name.
        title: name in tables, as in the paper.
        year: of the first publication.
        arxiv: arXiv identifier, empty if there is none.
        head_policy: ``"weighted"`` if head k gets ``w_k`` times its gradient, ``"unit"`` if the
            gradient itself.
        scale: what K identical tasks with gradient g yield: ``"sum"`` K g, ``"mean"`` g, ``"own"``
            neither.
        role: ``"reference"`` trains each task alone (delta-m is measured against it),
            ``"baseline"`` is the method that run times are compared with, everything else is a
            ``"method"``.
        backwards: backward passes through the trunk a step, without a wrapper.
        whole_rows: whether it reads rows of gradients, so that all of them have to be held; else
            it is content with their inner products.
        extra_forwards: forward passes a step beyond the first.
        claims: what ``mtlbench check`` holds the method to, with its default options.
        version: of the numbers that the method yields, part of what a run is: raise it with any
            change of them. None is 1 for a built-in method; for any other it means that its source
            tells runs apart.
        discontinuous: where the update jumps by the method's definition, and why; empty if it does
            not, and ``mtlbench check`` then holds the method to it.
        further: which batches :meth:`WeightingMethod.look` sees; None if there is no such look.
    """

    name: str
    title: str
    year: int
    arxiv: str = ""
    head_policy: HeadPolicy = "weighted"
    scale: Literal["sum", "mean", "own"] = "own"
    role: Literal["method", "baseline", "reference"] = "method"
    backwards: Literal["one", "per-task"] = "one"
    whole_rows: bool = False
    extra_forwards: int = 0
    claims: tuple[Claim, ...] = ()
    version: int | None = None
    discontinuous: str = ""
    further: Further | None = None

    @property
    def streams(self) -> bool:
        """Whether its Jacobian can be streamed."""
        return self.backwards == "per-task" and not self.whole_rows

    def passes(self, n_tasks: int, *, streamed: bool = False) -> Passes:
        """What a step costs without a wrapper, on inputs that all tasks share; a look beforehand is
        not in it, see :meth:`looks`.

        Args:
            n_tasks: K.
            streamed: whether the Jacobian is, of a method for which it can be: its rows are not
                there any more when the weights are, which makes a backward pass more.
        """
        if self.backwards == "per-task":
            return Passes(1 + self.extra_forwards, n_tasks + (streamed and self.streams))
        alone = (
            n_tasks if self.head_policy == "unit" else 0
        )  # heads, as the trunk's pass is weighted
        return Passes(1 + self.extra_forwards, 1, alone)

    def looks(self, n_tasks: int) -> Passes:
        """What a look costs, which no wrapper changes: a single task has none."""
        f = self.further
        if f is None or n_tasks == 1:
            return Passes()
        return Passes(f.forwards, f.backwards + n_tasks * f.backwards_per_task)


class WeightingMethod(Stateful, ABC):
    """Turns the K task gradients of a step into one update.

    Most methods override :meth:`weights` only. ``aggregate`` may run any number of times a step
    (not at all, or once for each gradient family of a wrapper); state advances in
    :meth:`after_step` and nowhere else.

    What it knows of each task it keeps in parameters or buffers whose first dimension is K, or the
    first two if they are named in ``pairs``. On a step in which some tasks have no label it is a
    method of the others, with their entries alone: ``n_tasks`` may differ from step to step. What
    it knows of a task begins with the first step in which that one takes part, which need not be
    the run's first: a count of steps that decides how something begins is a number a task, too.

    Args:
        n_tasks: K.
    """

    info: ClassVar[MethodInfo]
    pairs: ClassVar[tuple[str, ...]] = ()
    """Parameters and buffers that hold something for each pair of tasks, (K, K, ...)."""
    at: GramianPoint = "shared"
    """Where the gradients are taken that the weights are solved from."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks

    def use_heads(self, policy: HeadPolicy) -> None:
        """For methods with the option ``heads``: this one's ``info`` has that policy."""
        vars(self)["info"] = replace(self.info, head_policy=policy)

    def hold_out(self, share: float) -> None:
        """For methods with the option ``held_out``: this one's ``info`` has that share."""
        if self.info.further is None:
            raise UsageError(f"{self.info.name} looks at no further batches")
        further = replace(self.info.further, held_out=share)
        vars(self)["info"] = replace(self.info, further=further)

    def weights(self, view: GradientView) -> Tensor:
        """Task weights (K,), detached."""
        raise NotImplementedError(
            f"{type(self).__name__} defines neither weights() nor aggregate()"
        )

    def aggregate(self, view: GradientView) -> Update:
        """The update; one task alone needs no weighting and is plain descent.

        Raises:
            ContractError: the weights are not K numbers without a graph.
        """
        weights = torch.ones_like(view.losses) if view.n_tasks == 1 else self.weights(view)
        check_vector(f"{self.info.name}: weights() must return", weights, view.losses.shape)
        return view.combine(weights, self.info.head_policy)

    def look(self, problem: StepProblem) -> None:
        """Look at further batches, before the gradients of the step are taken: called where
        ``info.further`` says so, at the parameters, once a step of two or more tasks. What it finds
        out is for :meth:`aggregate` of the same step and is kept by :meth:`after_step`.

        ``problem`` may be asked for all that a wrapper may ask, also at displaced parameters, and
        so may each of ``problem.further``. No look, no wrapper and no order of theirs moves
        normalisation statistics other than one forward pass of the step's own batch would. Views
        and gradients live in buffers that are used again afterwards.

        There is none on a step in which a further batch lacks the label of a task:
        :meth:`aggregate` then has what is known from earlier ones.
        """

    def after_step(self, evaluate: Callable[[], Tensor]) -> None:
        """Advance the state. ``evaluate()`` returns the same batch's losses (K,) after the step."""

    def on_epoch_end(self, epoch: int, mean_losses: Tensor) -> None:
        """See the epoch's mean training losses (K,); NaN for a task that had no label in it."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers worth a place in a run's record (fallbacks of a solver, ...)."""
        return {}
