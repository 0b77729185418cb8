"""The optimisation problem of one training step: a fixed batch, fixed randomness and movable
parameters."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.engine.flat import FlatParameters, descent
from mtlbench.engine.inputs import check_batch, check_loss, check_losses, check_takes_three
from mtlbench.engine.labels import Labels
from mtlbench.engine.loss_parameters import LossParameters
from mtlbench.engine.numerics import AS_AROUND, Numerics, check_retained, is_compiled, widened
from mtlbench.engine.randomness import Buffers, Randomness, evaluation_mode, frozen_statistics
from mtlbench.engine.reduce import ALONE, Ranks, Shares
from mtlbench.engine.shifted import JointView, ShiftedView
from mtlbench.engine.views import Forward, NonFiniteError, PlainView
from mtlbench.errors import UsageError
from mtlbench.hardware import on_host
from mtlbench.interfaces import (
    Batch,
    Ignored,
    InputGroup,
    JointLoss,
    Loss,
    Move,
    MultiTaskModel,
    Passes,
    PointView,
    StepProblem,
    Update,
)
from mtlbench.torch_private import NormBase, tree_leaves, tree_map


@dataclass
class _Part:
    """The forward pass of one input group.

    Args:
        index: of the group in the batch.
        trunk: the trunk's output as the heads see it.
        names: of the K' objectives.
        losses: (K',).
        apart: the same, each with a graph through its own head alone; None if several heads, or
            their losses, were computed at once.
    """

    index: int
    trunk: Any
    names: list[str]
    losses: Tensor
    apart: dict[str, Tensor] | None


class BatchProblem(StepProblem):
    """Losses of one batch as a function of the parameters.

    A task without a label in the batch takes no part: the problem is that of the others. Examples
    without a label are left out of their task's loss, see :func:`~mtlbench.engine.labels.labelled`.

    The first forward pass is the real one: it updates normalisation statistics and other buffers
    and advances the random number generator. Later ones leave these alone, find what it found and
    draw the same numbers again (dropout), so that all of them evaluate one function.

    A further batch's forward passes, also the first, leave buffers and the random number generator
    alone, whenever they come, so that the step's own draws the same numbers without them.

    Where several processes have a part of the batch each, losses with a graph are this one's shares
    of them, and of a task that it has nothing of, zero; all that views and :meth:`evaluate` show is
    summed. A process may lack a task, a group, or the whole batch.

    Args:
        model: the network.
        flat: its parameters.
        batch: one or more input groups, with a target for each objective that takes part.
        objectives: the K task names.
        loss: ``loss(objective, prediction, target)``.
        generator: source of perturbation noise, on the parameters' device.
        passes: counters to add to.
        ignore: which integer targets are no labels.
        beside: trainable parameters that are not the model's but its loss's.
        further: further batches that the method looks at.
        optimizer: of the parameters, for :meth:`ahead`.
        numerics: how the network's passes are computed.
        ranks: the processes that have a part of the batch.

    Raises:
        UsageError: the batch is none, or a target belongs to no head of the model, or two to the
            same; parameters were added, removed or frozen since ``flat`` was built.
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
        ignore: Ignored = None,
        beside: Sequence[nn.Parameter] = (),
        *,
        further: Sequence[Batch] = (),
        optimizer: Optimizer | None = None,
        numerics: Numerics = AS_AROUND,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.ranks = model, ranks
        self.flat: FlatParameters = flat
        self.loss, self.generator, self.numerics = loss, generator, numerics
        self._network, self._judging = numerics.contexts(flat.data.device)
        self.passes = Passes() if passes is None else passes
        self._ignore, self._optimizer = ignore, optimizer
        self._take(batch, objectives)
        tasks = [k for k, name in enumerate(objectives) if self.shares.counts.get(name)]
        self.objectives = [objectives[k] for k in tasks]
        """The tasks that take part."""
        self._joint = (
            isinstance(loss, JointLoss) or type(model).predict is not MultiTaskModel.predict
        )
        self._regularised = type(model).penalty is not MultiTaskModel.penalty
        self._own = True
        """Whether the batch is the one that is trained on, and not a further one."""
        self.beside = LossParameters(beside, ranks)
        self.first_losses: Tensor | None = None
        """Losses (K,) of the first view: at the unperturbed point, before the step."""
        self._unread: list[Tensor] = []
        flat.begin_step(tasks)
        self._layers = [m for m in flat.modules if isinstance(m, NormBase)]
        self._buffers = Buffers(flat.modules)
        self.further: Sequence[BatchProblem] = [self._on(*each) for each in enumerate(further, 1)]

    def _take(self, batch: Batch, objectives: Sequence[str], number: int = 0) -> None:
        check_batch(batch)
        targets = _targets(batch, self.model)
        wanted = {name: targets[name] for name in objectives if name in targets}
        self.batch = batch
        self._inputs = [self.numerics.inputs(group.inputs) for group in batch]
        self.labels = Labels(wanted, self._ignore, self.flat.data.device)
        counts = self.labels.counts
        self.shares = Shares.of(self.ranks, objectives, self.loss, counts, wanted)
        self._randomness, self._begun = Randomness(self.flat.data.device, number), False

    def _on(self, number: int, batch: Batch) -> BatchProblem:
        """The problem of another batch, of the same tasks."""
        other = copy.copy(self)
        other._take(batch, self.objectives, number)
        other._own, other.beside = False, LossParameters((), self.ranks)
        return other

    @property
    def can_look(self) -> bool:
        """Whether there are several tasks, and each has a label in every further batch."""
        labelled = (each.shares.counts.get(n) for each in self.further for n in self.objectives)
        return len(self.objectives) > 1 and all(labelled)

    def losses(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses of ``only`` (all by default), with their graph; other heads do not run."""
        return self.forward(only).losses

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        """One forward pass of every input group that a wanted objective needs."""
        wanted = self.objectives if only is None else list(only)
        parts: list[_Part] = []
        first = not self._begun
        with self._one_function():
            for index, group in enumerate(self.batch):
                names = [name for name in wanted if name in group.targets]
                if names:
                    parts.append(self._part(index, group, names))
        every = [part.losses for part in parts]
        order = [name for part in parts for name in part.names]
        absent = [name for name in wanted if name not in order] if len(order) < len(wanted) else []
        if absent:
            every, order = [*every, torch.stack([self._nothing()] * len(absent))], [*order, *absent]
        losses = torch.cat(every) if len(every) > 1 else every[0]
        if order != wanted:
            losses = losses[[order.index(name) for name in wanted]]
        if self.shares.own is not None:
            losses = torch.stack(self.shares.weighted(losses.unbind(), wanted))
        if self.beside.is_due and losses.requires_grad:
            self.beside.differentiate(losses)
        if first and losses.requires_grad and is_compiled(self.flat.modules):
            check_retained(losses)
        features = {name: _differentiable(part.trunk) for part in parts for name in part.names}
        return Forward(
            losses,
            [features.get(name, []) for name in wanted],
            opaque=not all(_plain(leaf) for part in parts for leaf in tree_leaves(part.trunk)),
            groups=len(parts),
            separate=partial(self._separate, parts, wanted),
        )

    def _part(self, index: int, group: InputGroup, names: list[str]) -> _Part:
        """The forward pass of one input group, for the objectives in ``names``."""
        self.passes.forward += 1
        self._randomness.enter(index)
        before_part = partial(self._randomness.enter, index, "part")
        with self._network():
            found = self.model.features(self._inputs[index], names, before_part)
        trunk = tree_map(_alias, found)
        predictions, targets = self._outputs(index, trunk, names)
        if isinstance(self.loss, JointLoss):
            losses, apart = self._together(trunk, predictions, targets)
        else:
            apart = {
                name: self._loss(name, trunk, p, targets[name]) for name, p in predictions.items()
            }
            losses = torch.stack(list(apart.values()))
        joint = len(names) > 1 and self._joint
        return _Part(index, trunk, names, losses, None if joint else apart)

    def _together(
        self, trunk: Any, predictions: Mapping[str, Any], targets: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A joint loss of all objectives, with a graph of them all and one by one."""
        assert isinstance(self.loss, JointLoss)
        names = list(predictions)
        lacking = {name for name in names if self.shares.lacks(name)}
        if lacking:
            some = {name: p for name, p in predictions.items() if name not in lacking}
            apart = self._together(trunk, some, targets)[1] if some else {}
            apart |= {name: self._nothing(predictions[name]) for name in lacking}
            return torch.stack([apart[name] for name in names]), apart
        with self._judging():
            together = self.loss.together(predictions, targets)
        losses = widened(check_losses(together, names))
        apart = dict(zip(names, losses.unbind(), strict=True))
        if self._regularised:
            apart = {name: self._penalised(name, trunk, loss) for name, loss in apart.items()}
            losses = torch.stack(list(apart.values()))
        return losses, apart

    def _outputs(
        self, index: int, trunk: Any, names: list[str]
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Predictions and targets of a group's examples that have a label."""
        before_head = partial(self._randomness.enter, index, "head")
        with self._network():
            predictions = self.model.predict(trunk, names, before_head)
        predictions = self.numerics.predictions(predictions)
        return self.labels.pick_all(predictions, self.batch[index].targets)

    def _nothing(self, structure: Any = None) -> Tensor:
        """Zero, for a task that other processes have: its graph leads to the tensors of a
        prediction, so that a layer that works together with those of other processes is there in
        each of their passes; to a parameter, where there is no prediction."""
        parameters = chain(self.flat.shared_params, *self.flat.head_params)
        leaves = _differentiable(structure) or [next(parameters)]
        return torch.stack([t.flatten()[:0].sum() for t in leaves]).sum().to(self.flat.data.dtype)

    def _loss(self, name: str, trunk: Any, prediction: Any, target: Tensor) -> Tensor:
        if self.shares.lacks(name):
            return self._nothing(prediction)
        try:
            with self._judging():
                loss = self.loss(name, prediction, target)
        except TypeError as error:
            check_takes_three(self.loss, error)
            raise
        loss = widened(check_loss(loss, name))
        return self._penalised(name, trunk, loss) if self._regularised else loss

    def _penalised(self, name: str, trunk: Any, loss: Tensor) -> Tensor:
        penalty = self.model.penalty(trunk, name)
        return loss if penalty is None else check_loss(loss + penalty, f"{name}, with its penalty,")

    def _separate(self, parts: Sequence[_Part], wanted: Sequence[str]) -> list[Tensor]:
        """The losses of a forward pass, each with a graph through its own head alone.

        What was computed for several heads at once is computed again from the trunk's output, head
        by head: a backward pass through it would be one through all of them.
        """
        losses: dict[str, Tensor] = {}
        for part in parts:
            losses |= self._one_by_one(part) if part.apart is None else part.apart
        if self.shares.own is None:
            return [losses[name] for name in wanted]
        nothing = {name: self._nothing() for name in wanted if name not in losses}
        return self.shares.weighted([(losses | nothing)[name] for name in wanted], wanted)

    def _one_by_one(self, part: _Part) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        with self._one_function():
            for name in part.names:
                predictions, targets = self._outputs(part.index, part.trunk, [name])
                losses[name] = self._loss(name, part.trunk, predictions[name], targets[name])
        return losses

    def hold_finite(self, losses: Tensor) -> None:
        """Refuse losses (K,) that are NaN or infinite: at once where they can be read, or with what
        is fetched next from a device that the host would have to wait for.

        Raises:
            NonFiniteError: one of them is.
        """
        self._unread.append(losses)
        if losses.device.type == "cpu":
            self.fetch()

    def fetch(self, *tensors: Tensor) -> list[NDArray[np.float64]]:
        """Numbers on the host, in double precision, by one wait for the device.

        Raises:
            NonFiniteError: a loss that has not been looked at until now is NaN or infinite.
        """
        unread = self._unread[:]
        self._unread.clear()  # a further batch's problem has the same list
        found = on_host(*tensors, *unread)
        for losses in found[len(tensors) :]:
            if not np.isfinite(losses).all():
                raise NonFiniteError(_name_non_finite(self.objectives, losses))
        return found[: len(tensors)]

    def view(self, losses: Tensor | None = None, *, keep: bool = False) -> PlainView:
        """Gradients at the present point; see :meth:`StepProblem.view`, and :meth:`hold_finite` of
        when a loss that is not finite is refused."""
        return PlainView(self, losses, keep=keep)

    def view_at(
        self,
        losses: Tensor,
        move: Callable[[int], Sequence[Move]],
        base: PointView | None = None,
    ) -> ShiftedView:
        """Gradients each taken at a point of its own; see :meth:`StepProblem.view_at`."""
        assert base is None or isinstance(base, PlainView), (
            "the base is one of this problem's views"
        )
        return ShiftedView(self, losses, move, base)

    def view_at_points(
        self,
        losses: Tensor,
        points: Sequence[Sequence[int]],
        move: Callable[[int], Sequence[Move]],
    ) -> JointView:
        """Gradients at points of several tasks each; see :meth:`StepProblem.view_at_points`."""
        return JointView(self, losses, move, points)

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """The network in evaluation mode within, every module in its own again afterwards."""
        return evaluation_mode(self.model)

    @torch.no_grad()
    def evaluate(self, only: Sequence[str] | None = None) -> Tensor:
        """Losses at the present point, without a graph."""
        return self.ranks.sum(self.losses(only))

    def ahead(self, update: Update, *, bare: bool = False) -> Update:
        """By what a step of descent would move the parameters; see :meth:`StepProblem.ahead`."""
        if self._optimizer is None:
            raise UsageError("this problem was made without an optimizer")
        moves = descent(self._optimizer, self.flat, [update.shared, *update.heads], bare=bare)
        return Update(moves[0], moves[1:])

    def before_move(self, weights: Tensor | None) -> None:
        """For who looks on: the step is computed, the parameters are where they were. ``weights``
        are those of the tasks that take part, where there are such."""

    def undo_statistics(self) -> None:
        """Running statistics and other buffers as before the step, for one that is skipped."""
        self._buffers.restore()

    @property
    def begun(self) -> bool:
        """Whether there was a forward pass."""
        return self._begun

    def look_anew(self) -> None:
        """Take the network's buffers as they are now for those before the step."""
        self._buffers = Buffers(self.flat.modules)

    @contextmanager
    def _one_function(self) -> Iterator[None]:
        torch.clear_autocast_cache()  # it holds casts of parameters that have moved since
        first, self._begun = not self._begun, True
        numbers = self._randomness.first() if first else self._randomness.replayed()
        if first and self._own:
            with numbers:
                yield
            self._buffers.settle()
            return
        with frozen_statistics(self._layers), self._buffers.replayed(), numbers:
            yield


def _targets(batch: Batch, model: MultiTaskModel) -> dict[str, Tensor]:
    """The batch's targets by objective."""
    found = Counter(name for group in batch for name in group.targets)
    unknown = [name for name in found if name not in model.heads]
    if unknown:
        heads = ", ".join(model.heads)
        raise UsageError(f"a target for {', '.join(unknown)}, which is no head: {heads}")
    double = [name for name, count in found.items() if count > 1]
    if double:
        raise UsageError(f"two groups of the batch have a target for {', '.join(double)}")
    return {name: group.readable(name) for group in batch for name in group.targets}


def _name_non_finite(objectives: Sequence[str], losses: NDArray[np.float64]) -> str:
    bad = [f"{n} = {v}" for n, v in zip(objectives, losses.tolist(), strict=True) if v - v != 0]
    return f"non-finite loss: {', '.join(bad)}"


def _alias(leaf: Any) -> Any:
    """A trunk output as the heads see it, apart from others that the trunk computes from it."""
    return leaf.view_as(leaf) if isinstance(leaf, Tensor) and leaf.requires_grad else leaf


def _plain(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, Tensor | int | float | str)


def _differentiable(structure: Any) -> list[Tensor]:
    leaves = tree_leaves(structure)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
