"""A batch that goes through the network in parts, one after the other: the gradients are those of
the whole, the memory is that of a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.loss_parameters import Row
from mtlbench.engine.numerics import AS_AROUND, Numerics
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.reduce import ALONE, Ranks
from mtlbench.engine.views import Forward
from mtlbench.interfaces import Batch, Ignored, Loss, MultiTaskModel, Passes


class AccumulatedProblem(BatchProblem):
    r"""The problem of a batch of which ``numerics.accumulate`` parts are computed one by one.

    .. math:: L_k = \sum_i \frac{n_{ki}}{n_k} L_{ki}, \qquad
        J_k = \sum_i \frac{n_{ki}}{n_k} \nabla L_{ki}

    with :math:`n_{ki}` of task k's :math:`n_k` labels in part i: where a loss is the mean over the
    examples, and nothing in the network looks beyond an example, this is the whole batch's to the
    last bits. Losses are averaged and rows summed before anything is asked of them: there is one G
    and one aggregate a step, and wrappers move the parameters as for the whole. Batch normalisation
    is by part, and its running statistics see every part.

    A loss has no graph across its parts. A backward pass of it makes each part's forward pass
    again, then its backward pass, which adds to the row that the parameters' ``grad`` is bound to:
    one more forward pass a row is the price.

    Args:
        model: as :class:`BatchProblem` has it, like all the others.
        flat: its parameters.
        batch: the whole of it; a part is a piece of each of its groups.
        objectives: the K task names.
        loss: ``loss(objective, prediction, target)``.
        generator: source of perturbation noise.
        passes: counters to add to; a pass of a part counts as one.
        ignore: which integer targets are no labels.
        beside: trainable parameters that are not the model's but its loss's.
        further: none; methods that look at further batches see a batch whole.
        optimizer: of the parameters.
        numerics: how the network's passes are computed.
        ranks: this process alone.

    Raises:
        UsageError: the inputs cannot be taken apart; and as :class:`BatchProblem` has it.
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
        passes = Passes() if passes is None else passes
        pieces = [group.parts(numerics.accumulate) for group in batch]
        common = (objectives, loss, generator, passes, ignore, beside)
        n_parts = max((len(own) for own in pieces), default=0)
        parts = [
            BatchProblem(
                model,
                flat,
                [own[i] for own in pieces if i < len(own)],
                *common,
                numerics=numerics,
            )
            for i in range(n_parts)
        ]
        # Last, as its tasks are those of the step.
        super().__init__(model, flat, batch, *common, optimizer=optimizer, numerics=numerics)
        self._parts = [part for part in parts if part.objectives]
        self._anchor = flat.data.new_zeros((), requires_grad=True)

    def forward(self, only: Sequence[str] | None = None) -> Forward:
        """The losses, by a forward pass of every part."""
        wanted = self.objectives if only is None else list(only)
        groups = sum(any(name in group.targets for name in wanted) for group in self.batch)
        found = self._losses(wanted)
        losses = torch.stack([found[name] for name in wanted])
        if torch.is_grad_enabled():
            losses = self._deferred(losses, wanted, groups)

        def separate() -> list[Tensor]:
            return [self._deferred(found[name], [name], 1) for name in wanted]

        return Forward(losses, [[] for _ in wanted], opaque=True, groups=groups, separate=separate)

    def undo_statistics(self) -> None:
        for part in reversed(self._parts):
            part.undo_statistics()

    def _shares(self, part: BatchProblem, wanted: Sequence[str]) -> dict[str, float]:
        """Which of the tasks have labels in a part, and how many of theirs."""
        return {
            name: part.labels.counts[name] / self.labels.counts[name]
            for name in wanted
            if name in part.objectives
        }

    def _losses(self, wanted: Sequence[str]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        beside = self.beside.is_due and torch.is_grad_enabled()
        for part in self._parts:
            shares = self._shares(part, wanted)
            if not shares:
                continue
            if not part.begun:
                part.look_anew()  # parts before it have moved the buffers
            with torch.set_grad_enabled(beside):  # for the loss's own parameters
                own = part.forward(list(shares)).losses.detach()
            for loss, (name, share) in zip(own, shares.items(), strict=True):
                total[name] = total[name] + share * loss if name in total else share * loss
        if beside:
            self.beside.keep([self._row_beside(name) for name in wanted])
        return total

    def _row_beside(self, name: str) -> Row:
        """Gradients of a loss with respect to its own parameters."""
        rows = [
            [g if g is None else share * g for g in part.beside.row(part.objectives.index(name))]
            for part in self._parts
            for share in self._shares(part, [name]).values()
        ]
        return tuple(starmap(_sum, zip(*rows, strict=True)))

    def _deferred(self, values: Tensor, names: Sequence[str], groups: int) -> Tensor:
        """Losses whose backward pass is :meth:`_differentiate`."""
        point = self.flat.point

        def differentiate(grad: Tensor) -> None:
            if self.flat.point != point:
                raise RuntimeError("a loss was differentiated after the parameters left its point")
            with torch.enable_grad():
                self._differentiate(names, grad.reshape(-1), groups)

        found: Tensor = _Deferred.apply(self._anchor, values, differentiate)
        return found

    def _differentiate(self, names: Sequence[str], grad: Tensor, groups: int) -> None:
        """Add the gradient of ``grad @ losses`` to the parameters' ``grad``, part by part."""
        factors = dict(zip(names, grad.unbind(), strict=True))
        for i, part in enumerate(self._parts):
            shares = self._shares(part, names)
            if not shares:
                continue
            graph = part.forward(list(shares))
            losses = graph.apart if len(names) == 1 else graph.losses
            weighted = [
                share * factors[name] * loss
                for loss, (name, share) in zip(losses, shares.items(), strict=True)
            ]
            total = torch.stack(weighted).sum()
            if total.requires_grad:
                total.backward()
                self.passes.backward += groups * (i > 0)  # whoever asked counts the first


class _Deferred(torch.autograd.Function):
    """Numbers that are known, with a backward pass that is made when it is due."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, values: Tensor, differentiate: Callable[..., None]
    ) -> Any:
        ctx.differentiate = differentiate
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        ctx.differentiate(grad)
        return None, None, None


def _sum(*parts: Tensor | None) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).sum(0) if known else None
