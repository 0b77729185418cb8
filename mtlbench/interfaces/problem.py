"""A training step as a wrapper sees it: one function of the parameters, which it may move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from mtlbench.interfaces.gradients import GradientView, Update
from mtlbench.interfaces.models import MultiTaskModel

Move = tuple[slice, Tensor, Tensor | float]
"""``(segment, direction, length)``: add ``length * direction`` to a segment of the parameters."""


class Shift(Protocol):
    """Displaces segments of the parameters."""

    def __call__(self, *moves: Move) -> None: ...


class Parameters(ABC):
    """All trainable parameters in one vector ``[shared | head_1 | ... | head_K]``."""

    data: Tensor
    shared: slice
    """Where the shared parameters lie, from 0 to P."""
    heads: list[slice]
    """Where those of each head lie that takes part in the step."""
    layer_names: list[str]
    """Names of the shared parameter tensors, as the model has them."""
    layer_sizes: list[int]

    @abstractmethod
    def shifted(self, *moves: Move) -> AbstractContextManager[Shift]:
        """Displace segments of the parameters within; they are bit-equal again afterwards."""

    @abstractmethod
    def reuse_rows(self) -> None:
        """Let what follows in the step have the gradient buffers of what came before; clone what is
        to be kept."""

    def along(self, update: Update, length: Tensor | float) -> list[Move]:
        """The displacement of all segments, trunk and heads, by ``length`` times a gradient."""
        segments = zip([self.shared, *self.heads], [update.shared, *update.heads], strict=True)
        return [(segment, direction, length) for segment, direction in segments]

    @abstractmethod
    def layer_norms(self, direction: Tensor) -> Tensor:
        """Norm of each shared parameter tensor's part of ``direction`` (P,), one entry a tensor."""

    @abstractmethod
    def scale_layers_(self, direction: Tensor, factors: Tensor) -> Tensor:
        """Multiply each shared tensor's part of ``direction`` (P,) by its entry of ``factors``."""


class PointView(GradientView):
    """A view of the gradients at one point, which also has them one by one."""

    @abstractmethod
    def row(self, k: int) -> tuple[Tensor, Tensor]:
        """Gradient of loss k alone, (P,), and of its head: one backward pass, in a buffer that the
        next row overwrites; no pass where the Jacobian is known."""


class StepProblem(ABC):
    """What a wrapper may ask of a step: losses and gradients of a fixed batch, with fixed
    randomness, wherever it moves the parameters."""

    further: Sequence[StepProblem] = ()
    """The same for each further batch that the step's method asked for (see
    :class:`~mtlbench.interfaces.Further`): functions of the same parameters, of the same tasks."""

    flat: Parameters
    model: MultiTaskModel
    generator: torch.Generator
    """Source of perturbation noise, on the parameters' device."""
    objectives: Sequence[str]
    """The tasks that take part in the step."""

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.objectives)

    @abstractmethod
    def losses(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses of ``only`` (all by default), with their graph; other heads do not run."""

    @abstractmethod
    def evaluate(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses at the present point, without a graph."""

    @abstractmethod
    def ahead(self, update: Update, *, bare: bool = False) -> Update:
        r"""By what a step of gradient descent along ``update`` would move the parameters, as the
        optimizer has its learning rates now, momentum and weight decay for each of them:

        .. math:: -\eta (\beta m + g + \gamma \theta)

        Of an adaptive optimizer (Adam) that is descent at its learning rate, without its averages;
        what it does not hold is not moved.

        Args:
            update: g.
            bare: whether it is :math:`-\eta g` alone.

        Raises:
            UsageError: the problem knows no optimizer.
        """

    def note(  # noqa: B027 (where nobody looks on there is nothing to do)
        self, name: str, values: Tensor, only: Sequence[str] | None = None
    ) -> None:
        """Say something to whoever looks on at the step; nobody else hears it.

        Args:
            name: what it is.
            values: a number for each of ``only`` (all by default), (K',), or for each of n samples,
                (n, K').
            only: objectives.
        """

    @abstractmethod
    def evaluation_mode(self) -> AbstractContextManager[None]:
        """The network in evaluation mode within."""

    @abstractmethod
    def view(self, losses: Tensor | None = None, *, keep: bool = False) -> PointView:
        """Gradients at the present point.

        Args:
            losses: what the view shows as its losses; those of the present point by default. A
                wrapper that has moved the parameters passes the losses of the unperturbed point.
            keep: whether the view answers further questions after :meth:`GradientView.combine`
                without another forward pass, at the price of its graph's memory.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """

    @abstractmethod
    def view_at(
        self,
        losses: Tensor,
        move: Callable[[int], Sequence[Move]],
        base: PointView | None = None,
    ) -> GradientView:
        """Gradients each taken at a point of its own.

        Args:
            losses: losses at the unperturbed point, (K,).
            move: task index to the displacement of that task's point; called once a task, when it
                is needed.
            base: a view whose rows are subtracted from those of the shared parameters.
        """

    @abstractmethod
    def view_at_points(
        self,
        losses: Tensor,
        points: Sequence[Sequence[int]],
        move: Callable[[int], Sequence[Move]],
    ) -> GradientView:
        """Gradients at points that have several tasks each.

        Args:
            losses: losses at the unperturbed point, (K,).
            points: the tasks of each point; every task has one.
            move: index of a point to the displacement that leads there; called once a point, when
                it is needed.
        """
