"""The losses of a trained network on a fixed set of batches, as a function of its trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import accumulate, islice
from typing import Literal

import torch
from torch import Tensor

from mtlbench.data import check_split
from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.problem import BatchProblem
from mtlbench.engine.randomness import seeded
from mtlbench.errors import UsageError
from mtlbench.interfaces import MultiTaskModel, Task
from mtlbench.torch_private import NormBase

Mode = Literal["eval", "train"]
AT_MOST = 4
"""Batches where no number is given."""


class Surface:
    r"""Losses as a function of chosen parameters of the trunk; heads stay as they are.

    .. math:: L_k(\theta) = \frac{\sum_b n_{bk} L_{bk}(\theta)}{\sum_b n_{bk}}

    over batches b with :math:`n_{bk}` labels of task k, and :math:`\bar L`, the mean over tasks.

    Args:
        model: the network; its parameters are moved, and brought back.
        task: whose batches and losses.
        split: "train", "val" or "test".
        n_batches: how many of its first ones, in order and not augmented; at most four if None.
        mode: "eval" takes the running statistics of normalisation as they are and drops nothing:
            the network that is judged, each example by itself. "train" normalises each batch by its
            own statistics and keeps one draw of dropout for each: what training saw. Neither moves
            the running statistics.
        layers: patterns of parameter names, joined by "+"; all of the trunk if None.
        seed: of dropout.

    Raises:
        UsageError: the split has fewer batches, a pattern is like no layer.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        task: Task,
        *,
        split: str = "train",
        n_batches: int | None = None,
        mode: Mode = "eval",
        layers: str | None = None,
        seed: int = 0,
    ) -> None:
        check_split(split)
        self.model, self.mode, self.objectives = model, mode, list(model.heads)
        batches = list(islice(task.batches(split, None), n_batches or AT_MOST))
        self.n_batches = len(batches)
        if n_batches is not None and len(batches) < n_batches:
            raise UsageError(
                f"{n_batches} batches were asked for, the split {split!r} has {len(batches)} of "
                f"{task.protocol.batch_size}"
            )
        self.flat = FlatParameters(model, self.objectives)
        self.chosen = chosen_layers(self.flat.layer_names, layers)
        ends = list(accumulate(self.flat.layer_sizes))
        self._spans = [slice(ends[i] - self.flat.layer_sizes[i], ends[i]) for i in self.chosen]
        self.params = [self.flat.shared_params[i] for i in self.chosen]
        model.train(mode == "train")
        device = self.flat.data.device
        generator = torch.Generator(device)
        with seeded(seed):
            self._problems = [
                BatchProblem(
                    model,
                    self.flat,
                    [group.to(device) for group in batch],
                    self.objectives,
                    task.loss,
                    generator,
                    ignore=task.ignore,
                )
                for batch in batches
            ]
            for problem in self._problems:  # the first forward pass is the one that moves buffers
                problem.evaluate()
                problem.undo_statistics()
        counts = torch.tensor(
            [[p.labels.counts.get(o, 0) for o in self.objectives] for p in self._problems],
            dtype=torch.float64,
        )
        unknown = [o for o, n in zip(self.objectives, counts.sum(0), strict=True) if n == 0]
        if unknown:
            raise UsageError(
                f"no label of {', '.join(unknown)} in {len(batches)} batches of {split}"
            )
        self._shares = counts / counts.sum(0)

    @property
    def size(self) -> int:
        """How many parameters are chosen."""
        return sum(p.numel() for p in self.params)

    @property
    def said(self) -> str:
        """The mode, and why, in a sentence."""
        norms = any(isinstance(m, NormBase) for m in self.model.modules())
        if self.mode == "train":
            how = "each batch's own statistics and one draw of dropout, as training saw it"
            return f"training mode: {how}"
        why = "as the network is judged, each example by itself; nothing is dropped"
        how = "running statistics of normalisation, kept as they are" if norms else "no dropout"
        return f"evaluation mode: {how}, {why}" if norms else f"evaluation mode: {why}"

    @property
    def mean(self) -> Tensor:
        """Coefficients (K,) of the mean loss."""
        return torch.full((len(self.objectives),), 1 / len(self.objectives), dtype=torch.float64)

    def one(self, k: int) -> Tensor:
        """Coefficients (K,) of task k's loss."""
        return torch.eye(len(self.objectives), dtype=torch.float64)[k]

    @torch.no_grad()
    def losses(self) -> Tensor:
        """All losses at the present point, (K,), in double precision on the CPU."""
        total = torch.zeros(len(self.objectives), dtype=torch.float64)
        for problem, shares in zip(self._problems, self._shares, strict=True):
            index = [self.objectives.index(name) for name in problem.objectives]
            total[index] += shares[index] * problem.losses().double().cpu()
        return total

    def gradients(self, coefficients: Tensor, *, graph: bool = False) -> Iterator[Tensor]:
        """A batch's part of the gradient of ``coefficients @ losses``, (n,), one after the other;
        with ``graph`` they can be differentiated again."""
        for problem, shares in zip(self._problems, self._shares, strict=True):
            factors = {
                name: float(share * c)
                for name, share, c in zip(self.objectives, shares, coefficients, strict=True)
                if share * c != 0 and name in problem.objectives
            }
            if factors:
                losses = problem.losses(list(factors))
                total = (losses * losses.new_tensor(list(factors.values()))).sum()
                yield self._flat(
                    torch.autograd.grad(
                        total, self.params, create_graph=graph, materialize_grads=True
                    )
                )

    def gradient(self, coefficients: Tensor) -> Tensor:
        """Gradient (n,) of ``coefficients @ losses`` at the present point."""
        return torch.stack(list(self.gradients(coefficients))).sum(0)

    def _flat(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([piece.reshape(-1) for piece in pieces])

    @contextmanager
    def moved(self) -> Iterator[Callable[[Tensor], None]]:
        """Move the chosen parameters by vectors (n,), from where they are; they are bit-equal again
        afterwards."""
        whole = torch.zeros_like(self.flat.data[self.flat.shared])
        sizes = [span.stop - span.start for span in self._spans]

        with self.flat.shifted() as shift:

            def move(step: Tensor) -> None:
                for span, piece in zip(self._spans, step.split(sizes), strict=True):
                    whole[span] = piece
                shift((self.flat.shared, whole, 1.0))

            yield move


def chosen_layers(names: Sequence[str], layers: str | None) -> list[int]:
    """Which parameter tensors of the trunk are like one of the patterns.

    Raises:
        UsageError: a pattern is like none.
    """
    if layers is None:
        return list(range(len(names)))
    patterns = layers.split("+")
    idle = [p for p in patterns if not any(fnmatch(name, p) for name in names)]
    if idle:
        raise UsageError(f"no layer is like {idle[0]!r}; layers: {', '.join(names)}")
    return [i for i, name in enumerate(names) if any(fnmatch(name, p) for p in patterns)]
