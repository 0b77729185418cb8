r"""What the task gradients of a training have to tell: how they conflict, in which layers, and what
method and wrapper made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlbench.engine.flat import FlatParameters
from mtlbench.engine.observe import ObservedProblem
from mtlbench.errors import UsageError
from mtlbench.interfaces import Passes
from mtlbench.interfaces.gradients import inner_products

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Row = dict[str, Any]

TRUNK = ""
"""In place of a layer's name: all shared parameters."""


class GradientLog:
    r"""Looks on at every n-th step of a training.

    >>> log = GradientLog(every=10)
    >>> for batch in loader:
    ...     stepper.step(batch, loss, log=log)
    >>> log.frame()

    A row for the trunk, with ``layer`` empty, and one for each of its layers (a module with its own
    parameters), so that :math:`G = \sum_\ell G^\ell`:

    - ``step``, from 0; ``layer``; ``size``, its number of parameters,
    - ``norm/a``: of task a's gradient at the parameters; nothing for a task without a label,
    - ``cosine/a|b``: of the gradients of two tasks; nothing where one is zero,
    - ``cosine``: their mean over pairs; ``conflict``: the share of pairs whose cosine is negative,

    and for the trunk only

    - ``condition``: largest over smallest eigenvalue of :math:`G = J J^\top` (infinite where it is
      singular); ``rank``: how many are above K times the rounding of J, relative to the largest,
    - ``weight/a``: as the step's report has them,
    - ``perturbation/a``: length of the trunk's displacement where the gradient was taken that the
      method saw; nothing where the wrapper moves nothing,
    - what the wrapper notes, as ``slope/a``: SAMO's probe, whose sign is what is left of it.

    Skipped steps have no row. A step costs K backward passes and a forward pass more, or nothing
    more where its method asked for J at the parameters; :attr:`passes` counts them. A K x P buffer
    is kept for it.

    Args:
        every: n.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"gradients are logged every n-th step, n from 1, not {every}")
        self.every = every
        self.rows: list[Row] = []
        self.passes = Passes()

    def wants(self, step: int) -> bool:
        """Every n-th step, the first one included."""
        return step % self.every == 0

    def add(self, step: int, problem: ObservedProblem, weights: Tensor | None) -> None:
        """See :class:`~mtlbench.engine.observe.StepLog`."""
        names, flat = problem.objectives, problem.flat
        J = problem.gradients()
        said: dict[str, Mapping[str, Tensor]] = {"perturbation": problem.displacements}
        if weights is not None:
            said["weight"] = dict(zip(names, weights.unbind(), strict=True))
        said |= problem.notes
        columns = [f"{what}/{name}" for what, values in said.items() for name in values]
        numbers = [value for values in said.values() for value in values.values()]
        layers = layer_spans(flat)
        grams = [sum(inner_products(J[:, s]) for s in spans) for spans in layers.values()]
        whole = inner_products(J)
        *found, G, values = problem.fetch(
            *(torch.as_tensor(gram) for gram in grams), whole, _stacked(numbers, J)
        )
        eps = float(torch.finfo(J.dtype).eps)
        extra = _spectrum(G, eps) | dict(zip(columns, values.tolist(), strict=True))
        start: Row = {"step": step, "layer": TRUNK, "size": flat.shared.stop}
        self.rows.append(start | conflict(names, G) | extra)
        for (layer, spans), gram in zip(layers.items(), found, strict=True):
            size = sum(span.stop - span.start for span in spans)
            start = {"step": step, "layer": layer, "size": size}
            self.rows.append(start | conflict(names, gram))
        self.passes.forward += problem.cost.forward
        self.passes.backward += problem.cost.backward

    def take(self) -> list[Row]:
        """The rows until now, which are forgotten."""
        rows, self.rows = self.rows, []
        return rows

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows)


def layer_spans(flat: FlatParameters) -> dict[str, list[slice]]:
    """By name of a module with shared parameters, where these lie among them."""
    spans: dict[str, list[slice]] = {}
    ends = accumulate(flat.layer_sizes)
    for name, size, end in zip(flat.layer_names, flat.layer_sizes, ends, strict=True):
        spans.setdefault(name.rpartition(".")[0] or name, []).append(slice(end - size, end))
    return spans


def conflict(names: Sequence[str], gramian: Array) -> Row:
    """Norms, cosines, their mean and the conflict rate, of gradients with these inner products."""
    norms = np.sqrt(np.diag(gramian).clip(min=0))
    first, second = np.triu_indices(len(names), 1)
    lengths = norms[first] * norms[second]
    known = lengths > 0
    cosines = np.full(len(first), np.nan)
    cosines[known] = gramian[first, second][known] / lengths[known]
    found = cosines[known]
    row: Row = {
        "cosine": float(found.mean()) if len(found) else float("nan"),
        "conflict": float((found < 0).mean()) if len(found) else float("nan"),
    }
    row |= {f"norm/{name}": float(norm) for name, norm in zip(names, norms, strict=True)}
    pairs = zip(first.tolist(), second.tolist(), cosines.tolist(), strict=True)
    return row | {f"cosine/{names[a]}|{names[b]}": cosine for a, b, cosine in pairs}


def _spectrum(gramian: Array, eps: float) -> Row:
    """Condition and rank of a Gramian."""
    values = np.linalg.eigvalsh(gramian)
    smallest, largest = float(values[0]), float(values[-1])
    rank = int((values > len(values) * eps * largest).sum())
    whole = rank == len(values) and smallest > 0
    return {"condition": largest / smallest if whole else float("inf"), "rank": rank}


def _stacked(numbers: Sequence[Tensor], like: Tensor) -> Tensor:
    """Numbers in one tensor, to be waited for once."""
    return torch.stack([n.to(like) for n in numbers]) if numbers else like.new_zeros(0)
