"""The properties that a weighting method may claim, each judged on short runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from mtlbench.interfaces import Update
from mtlbench.testing.families import Case, run_on_equal_tasks, runs
from mtlbench.testing.findings import TOLERANCE, Check, ViolationError, judged, require
from mtlbench.testing.trials import MethodSubject, length, relative, summed, updates

KS = (3, 7)


def _tried(subject: MethodSubject) -> Iterator[tuple[Case, Update]]:
    """Every step of a run on every family."""
    for run in runs(KS):
        yield from zip(run, subject.run(run), strict=True)


def _changed(
    subject: MethodSubject, change: Callable[[Case], Case]
) -> Iterator[tuple[Case, Update, Case, Update]]:
    """Every step, and the step of a run of which every step was changed."""
    for run in runs(KS):
        other = [change(case) for case in run]
        found = updates(subject.build(run[0].n_tasks), other)
        yield from zip(run, subject.run(run), other, found, strict=True)


def _permutation(subject: MethodSubject) -> str:
    orders = {K: torch.randperm(K, generator=torch.Generator().manual_seed(1)) for K in KS}
    return judged(
        (relative((a.shared - b.shared).norm(), summed(a, case.jacobian)), case.name)
        for case, a, _, b in _changed(subject, lambda case: case.permuted(orders[case.n_tasks]))
    )


def _scaling(subject: MethodSubject) -> str:
    """The losses stay as they are, as they do for the rows of a wrapper's second part."""
    c = 0.01
    return judged(
        (relative((c * a.shared - b.shared).norm(), c * summed(a, case.jacobian)), case.name)
        for case, a, _, b in _changed(subject, lambda case: case.rescaled(c))
    )


def _row_scaling(subject: MethodSubject) -> str:
    factors = {K: torch.logspace(-1, 1, K, dtype=torch.float64) for K in KS}
    return judged(
        (_turn(a, case.jacobian, b, other.jacobian), case.name)
        for case, a, other, b in _changed(subject, lambda c: c.rescaled(factors[c.n_tasks]))
    )


def _turn(a: Update, J: Tensor, b: Update, other: Tensor) -> float:
    """Difference of directions, as far as they are more than rounding errors of their sums."""
    norms = [float(update.shared.norm()) for update in (a, b)]
    if not all(norms):
        return float(norms[0] != norms[1])
    turned = float((a.shared / norms[0] - b.shared / norms[1]).norm())
    return turned * min(norms[0] / summed(a, J), norms[1] / summed(b, other))


def _identical(subject: MethodSubject) -> str:
    scale = subject.info.scale
    require(scale != "own", "info.scale is 'own', which promises no length")

    def measured() -> Iterator[tuple[float, str]]:
        for K in KS:
            run = run_on_equal_tasks(K)
            factor = {"sum": K, "mean": 1}[scale]
            for case, update in zip(run, updates(subject.build(K), run), strict=True):
                expected = factor * case.jacobian[0]
                error = relative((update.shared - expected).norm(), float(expected.norm()))
                yield error, f"{case.name}, scale {scale!r}"

    return judged(measured())


def _simplex(subject: MethodSubject) -> str:
    def outside(weights: Tensor | None) -> float:
        if weights is None:
            raise ViolationError("the updates have no weights")
        return max(abs(float(weights.sum()) - 1), -float(weights.min()))

    return judged((outside(update.weights), case.name) for case, update in _tried(subject))


def _non_conflict(subject: MethodSubject) -> str:
    """Relative to the update: weights that cancel would make any growth small beside themselves."""

    def growth(J: Tensor, update: Update) -> float:
        """Of the worst task, per unit of its gradient."""
        norms = J.norm(dim=1)
        rates = -(J @ update.shared) / norms.where(norms > 0, 1.0)
        return relative(rates.max(), length(subject, update, J))

    return judged((growth(case.jacobian, update), case.name) for case, update in _tried(subject))


def _stationarity(subject: MethodSubject) -> str:
    """Judged where the hull of the unit gradients is clearly away from 0."""
    judged_on = 0
    for case, update in _tried(subject):
        if distance_to_hull(case.jacobian) > 0.01:
            judged_on += 1
            rounding = 1e-14 if update.weights is None else TOLERANCE
            norm, size = float(update.shared.norm()), summed(update, case.jacobian)
            require(norm > rounding * size, f"the update is zero: {case.name}")
    return f"not zero in {judged_on} cases"


def distance_to_hull(J: Tensor) -> float:
    """Distance of 0 to the convex hull of the unit gradients; 0 where a row is zero."""
    norms = J.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        return 0.0
    units = (J / norms).numpy()
    # The least-squares solution is the nearest point's weights up to a factor.
    w, _ = nnls(np.vstack([units.T, np.ones(len(J))]), np.append(np.zeros(J.shape[1]), 1.0))
    return float(np.linalg.norm(w @ units) / w.sum())


PROPERTIES: tuple[Check[MethodSubject], ...] = (
    Check("permutation", _permutation),
    Check("scaling", _scaling),
    Check("row-scaling", _row_scaling),
    Check("identical", _identical),
    Check("simplex", _simplex),
    Check("non-conflict", _non_conflict),
    Check("stationarity", _stationarity),
)
