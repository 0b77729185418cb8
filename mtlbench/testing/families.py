"""Families of Jacobians: ordinary ones, and those at which methods break."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from torch import Tensor

from mtlbench.interfaces import DenseView

STEPS = 3
"""Length of the runs that properties are judged on: learnt weights have moved by the third step."""


class KnownView(DenseView):
    """Known gradients, of a trunk whose parameters are its output."""

    def representation_jacobian(self) -> Tensor:
        return self.jacobian()


@dataclass(frozen=True)
class Case:
    """The losses and gradients of one step.

    Args:
        name: for messages.
        losses: (K,).
        jacobian: (K, P).
        heads: (K, H), one row a head.
    """

    name: str
    losses: Tensor
    jacobian: Tensor
    heads: Tensor

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.losses)

    def view(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> KnownView:
        """A fresh view with copies of everything and a generator in its first state."""
        losses, J, heads = (
            t.to(device, dtype, copy=True) for t in (self.losses, self.jacobian, self.heads)
        )
        return KnownView(losses, J, list(heads), torch.Generator(device).manual_seed(0))

    def permuted(self, order: Tensor) -> Case:
        """The same tasks in another order."""
        parts = (t[order] for t in (self.losses, self.jacobian, self.heads))
        return Case(self.name, *parts)

    def rescaled(self, factors: Tensor | float) -> Case:
        """Gradients times a number, or a number a row; the losses stay as they are."""
        factors = torch.as_tensor(factors, dtype=self.jacobian.dtype).reshape(-1, 1)
        return replace(self, jacobian=factors * self.jacobian, heads=factors * self.heads)


@dataclass(frozen=True)
class _Draw:
    """Ordinary gradients and losses, for a family to spoil."""

    J: Tensor
    losses: Tensor
    generator: torch.Generator

    @property
    def n_tasks(self) -> int:
        return len(self.J)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


Family = Callable[[_Draw], tuple[Tensor, Tensor]]
"""Turns a draw into ``(jacobian, losses)``."""


def _conflicting(draw: _Draw) -> tuple[Tensor, Tensor]:
    return draw.J - 0.9 * draw.J.mean(0), draw.losses


def _agreeing(draw: _Draw) -> tuple[Tensor, Tensor]:
    return draw.J + 2 * draw.normal(1, draw.J.shape[1]), draw.losses


def _rank_deficient(draw: _Draw) -> tuple[Tensor, Tensor]:
    rank = (draw.n_tasks + 1) // 2
    return draw.normal(draw.n_tasks, rank) @ draw.J[:rank], draw.losses


def _dependent_but_agreeing(draw: _Draw) -> tuple[Tensor, Tensor]:
    rank = (draw.n_tasks + 1) // 2
    return draw.normal(draw.n_tasks, rank).abs() @ draw.J[:rank], draw.losses


def _disjoint(draw: _Draw) -> tuple[Tensor, Tensor]:
    """No two tasks share a parameter."""
    columns = torch.arange(draw.J.shape[1]) % draw.n_tasks
    return draw.J * (columns == torch.arange(draw.n_tasks)[:, None]), draw.losses


def _zero_row(draw: _Draw) -> tuple[Tensor, Tensor]:
    solved = torch.arange(draw.n_tasks) == 0
    return draw.J.masked_fill(solved[:, None], 0), draw.losses.masked_fill(solved, 0)


def _duplicates(draw: _Draw) -> tuple[Tensor, Tensor]:
    return draw.J[torch.arange(draw.n_tasks) // 2], draw.losses


def _opposites(draw: _Draw) -> tuple[Tensor, Tensor]:
    index = torch.arange(draw.n_tasks)
    return draw.J[index // 2] * (1 - 2 * (index % 2))[:, None], draw.losses


def _nearly(draw: _Draw, distance: float, family: Family) -> tuple[Tensor, Tensor]:
    J, losses = family(draw)
    return J + distance * draw.J, losses


def _cancelling(draw: _Draw) -> tuple[Tensor, Tensor]:
    """Strictly weakly stationary: positive weights of about half of the gradients cancel them."""
    m = draw.n_tasks // 2
    shares = 0.5 + torch.rand(m, generator=draw.generator, dtype=torch.float64)
    sums = -(shares @ draw.J[:m])[None]
    return torch.cat([draw.J[:m], sums, draw.J[m + 1 :]]), draw.losses


def _sizes(draw: _Draw, low: float, high: float, family: Family) -> tuple[Tensor, Tensor]:
    J, losses = family(draw)
    factors = torch.logspace(low, high, draw.n_tasks, dtype=torch.float64)
    return factors[:, None] * J, factors * losses


def _ordinary(draw: _Draw) -> tuple[Tensor, Tensor]:
    return draw.J, draw.losses


FAMILIES: dict[str, Family] = {
    "ordinary": _ordinary,
    "conflicting": _conflicting,
    "agreeing": _agreeing,
    "rank-deficient": _rank_deficient,
    "dependent but agreeing": _dependent_but_agreeing,
    "disjoint": _disjoint,
    "a zero row": _zero_row,
    "all zero": lambda draw: (0 * draw.J, 0 * draw.losses),
    "duplicates": _duplicates,
    "opposite pairs": _opposites,
    "some cancel": _cancelling,
    "nearly opposite": lambda draw: _nearly(draw, 1e-4, _opposites),
    "rows of 1e-6 to 1e6": lambda draw: _sizes(draw, -6, 6, _ordinary),
    "conflicting rows of 1e-6 to 1e6": lambda draw: _sizes(draw, -6, 6, _conflicting),
}
"""What properties are judged on."""

EXTREMES: dict[str, Family] = {
    "nearly equal": lambda draw: _nearly(draw, 1e-9, _duplicates),
    "opposite but for 1e-9": lambda draw: _nearly(draw, 1e-9, _opposites),
    "rows of 1e-12": lambda draw: _sizes(draw, -12, -12, _ordinary),
    "rows of 1e12": lambda draw: _sizes(draw, 12, 12, _ordinary),
    "rows of 1e-12 to 1e12": lambda draw: _sizes(draw, -12, 12, _ordinary),
    "conflicting rows of 1e-12 to 1e12": lambda draw: _sizes(draw, -12, 12, _conflicting),
    "negative losses": lambda draw: (draw.J, -draw.losses),
}
"""Further ones, beyond what a Gramian in double precision resolves: updates must be finite."""


@cache
def run_on(family: str, K: int, steps: int = STEPS) -> list[Case]:
    """The steps of a short run on one family."""
    generator = torch.Generator().manual_seed(K)
    make, found = (FAMILIES | EXTREMES)[family], []
    for step in range(1, steps + 1):
        J = torch.randn(K, 2 * K + 8, generator=generator, dtype=torch.float64)
        losses = 0.5 + 2 * torch.rand(K, generator=generator, dtype=torch.float64)
        J, losses = make(_Draw(J, losses, generator))
        heads = torch.randn(K, 3, generator=generator, dtype=torch.float64)
        heads *= J.norm(dim=1, keepdim=True)
        found.append(Case(f"{family}, K = {K}, step {step}", losses, J, heads))
    return found


def run_on_equal_tasks(K: int) -> list[Case]:
    """The steps of a run on K times the same task, at the same point."""
    first = run_on("ordinary", K)[0]
    case = first.permuted(torch.zeros(K, dtype=torch.int64))
    return [replace(case, name=f"equal tasks, K = {K}, step {step + 1}") for step in range(STEPS)]


def runs(
    Ks: Iterable[int], families: Iterable[str] = FAMILIES, steps: int = STEPS
) -> list[list[Case]]:
    """A run for every K on every family."""
    return [run_on(family, K, steps) for K, family in product(Ks, families)]
