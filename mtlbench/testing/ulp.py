"""One ulp: degenerate gradients with their last bits changed make the same update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from mtlbench.interfaces import Update
from mtlbench.testing.families import Case, KnownView
from mtlbench.testing.findings import global_seed, require
from mtlbench.testing.trials import MethodSubject, length, relative, updates

ONE_ULP = "one ulp"
"""Name of the check."""

KS, STEPS, TRIALS = (2, 3, 7), 3, 3
BOUNDS = {torch.float64: 1e-6, torch.float32: 1e-2}
"""How far the update may move, relative to its length: more than the root of a rounding error."""

Degenerate = Callable[[Tensor], Tensor]
"""Turns ordinary gradients (K, P) into those at which methods may jump."""


def _parallel(J: Tensor) -> Tensor:
    return torch.logspace(0, 1, len(J), dtype=J.dtype)[:, None] * J[:1]


def _equally_long(J: Tensor) -> Tensor:
    return nn.functional.normalize(J)


def _opposite(J: Tensor) -> Tensor:
    return torch.cat([J[:1], -J[:1], J[2:]])


def _unequally_opposite(J: Tensor) -> Tensor:
    return torch.cat([J[:1], -3 * J[:1], J[2:]])


def _dependent(J: Tensor) -> Tensor:
    return torch.cat([J[:-1], J[:-1].mean(0, keepdim=True) + J[:1]])  # K = 2: g and 2 g


def _cancelling(J: Tensor) -> Tensor:
    """Strictly weakly stationary: positive weights of some of the gradients cancel them."""
    m = len(J) // 2
    shares = torch.linspace(0.5, 1.5, m, dtype=J.dtype)
    return torch.cat([J[:m], -(shares @ J[:m])[None], J[m + 1 :]])


def _zero_row(J: Tensor) -> Tensor:
    return torch.cat([0 * J[:1], J[1:]])


DEGENERATE: dict[str, Degenerate] = {
    "parallel": _parallel,
    "equally long": _equally_long,
    "opposite": _opposite,
    "unequally opposite": _unequally_opposite,
    "rank K - 1": _dependent,
    "strictly weakly stationary": _cancelling,
    "a zero row": _zero_row,
}


def _run(spoil: Degenerate, K: int) -> list[Case]:
    generator = torch.Generator().manual_seed(K)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    steps = [(0.5 + draw(K).abs(), spoil(draw(K, 2 * K + 8))) for _ in range(STEPS)]
    return [Case("", losses, J, J[:, :3]) for losses, J in steps]


def _nudged(case: Case, dtype: torch.dtype, seed: int) -> Case:
    """The gradients in a precision; but for seed 0, their last bits are changed at random."""
    J = case.jacobian.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(-1, 2, J.shape, generator=generator).to(dtype)
    J = J * (1 + bool(seed) * torch.finfo(dtype).eps * signs)
    return replace(case, jacobian=J.double())


def _updates(
    subject: MethodSubject, run: list[Case], view: Callable[[Case], KnownView]
) -> list[Update]:
    """Of a run; what global randomness does is another check's matter."""
    with global_seed(1):
        return updates(subject.build(run[0].n_tasks), run, view)


def one_ulp(subject: MethodSubject) -> str:
    """The last bits of degenerate gradients do not decide where a step leads."""
    for (name, spoil), K, (dtype, bound) in product(DEGENERATE.items(), KS, BOUNDS.items()):
        view, run = partial(Case.view, dtype=dtype), _run(spoil, K)
        exact, *others = (
            _updates(subject, [_nudged(case, dtype, seed) for case in run], view)
            for seed in range(TRIALS)
        )
        for other in others:
            for step, (case, a, b) in enumerate(zip(run, exact, other, strict=True), 1):
                if not all(bool(update.shared.isfinite().all()) for update in (a, b)):
                    continue  # which another check is about
                moved = relative((a.shared - b.shared).norm(), length(subject, a, case.jacobian))
                where = f"{name}, K = {K}, {dtype}, step {step}"
                require(moved <= bound, f"moves by {moved:.1e} of its length: {where}")
    return f"{len(DEGENERATE)} families of Jacobians, K = {', '.join(map(str, KS))}"
