r"""What a few seeds can tell: differences, intervals, verdicts, ranks, resolution.

Everything is in points of delta-m, of which less is better: a difference below zero speaks for the
first of two rows. Intervals are two-sided; one seed gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit  # what scipy.stats takes, which is slow to import

Verdict = Literal["better", "worse", "equal", "open"]
"""The first of two rows is better or worse; or the two are equal, which has to be shown as well;
or the seeds are too few to say."""
VERDICTS: tuple[Verdict, ...] = ("better", "worse", "equal", "open")
LEVEL = 0.95
MARGIN = 1.0
"""Points of delta-m within which two rows count as equal."""
POWER = 0.8
ENOUGH_TO_RESAMPLE = 10
"""Seeds below which no bootstrap is taken: its intervals are too narrow there."""


@cache
def _quantile(probability: float, n: int) -> float:
    """Of Student's t with n - 1 degrees of freedom."""
    return float(stdtrit(n - 1, probability))


@dataclass(frozen=True)
class Estimate:
    r"""A mean over seeds, and how far it can be trusted.

    .. math:: \bar D \pm t_{n-1} \, s / \sqrt n

    Args:
        n: seeds.
        mean: over them.
        sd: standard deviation (n - 1) of what the mean is taken of; NaN for one seed.
    """

    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, values: ArrayLike) -> Estimate:
        """From one number a seed; NaN are left out."""
        array = np.asarray(values, dtype=float)
        found = array[~np.isnan(array)]
        mean = float(found.mean()) if len(found) else math.nan
        return cls(len(found), mean, float(found.std(ddof=1)) if len(found) > 1 else math.nan)

    @property
    def error(self) -> float:
        r"""Standard error, :math:`s / \sqrt n`."""
        return self.sd / math.sqrt(self.n) if self.n > 1 else math.nan

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the t-interval; NaN for less than two seeds."""
        if self.n < 2:
            return math.nan, math.nan
        half = _quantile((1 + level) / 2, self.n) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p-value of Student's t-test that the mean is zero."""
        if self.n < 2 or math.isnan(self.sd):
            return math.nan
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.n - 1, -abs(self.mean) / self.error))

    def is_small(self, margin: float = MARGIN) -> bool:
        """Two one-sided tests at 5 %: the 90 % interval lies within the margin on either side."""
        low, high = self.interval(0.9)
        return -margin < low and high < margin

    @property
    def resolution(self) -> float:
        """What :func:`resolution` says of these seeds."""
        return resolution(self.sd, self.n)


def prediction(seeds: Estimate) -> float:
    r"""How far apart two draws may lie, 19 times in 20, :math:`t_{0.975, n-1} \sqrt 2 s`.

    NaN for less than two seeds.
    """
    if seeds.n < 2:
        return math.nan
    return _quantile((1 + LEVEL) / 2, seeds.n) * math.sqrt(2) * seeds.sd


def resolution(sd: float, n: int) -> float:
    r"""The true difference that n seeds show as one, at 5 %, four times in five.

    .. math:: (t_{0.975, n-1} + t_{0.8, n-1}) \, s / \sqrt n
    """
    if n < 2:
        return math.nan
    return (_quantile((1 + LEVEL) / 2, n) + _quantile(POWER, n)) * sd / math.sqrt(n)


def seeds_to_resolve(sd: float, size: float = 1.0) -> int | None:
    """The least number of seeds whose :func:`resolution` is ``size`` or less, if the standard
    deviation stays what it is; None where that is not known."""
    if math.isnan(sd):
        return None
    normal = ndtri((1 + LEVEL) / 2) + ndtri(POWER)
    n = max(2, math.floor((normal * sd / size) ** 2))  # t is wider than the normal: no less
    while resolution(sd, n) > size:
        n += 1
    return n


def holm(p: Sequence[float]) -> list[float]:
    r"""Holm's adjusted p-values, which hold for all of a family together.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (N - j + 1) \, p_{(j)})

    Args:
        p: one a comparison; NaN where there is none, which does not count in N.
    """
    values = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    adjusted = np.full(len(values), math.nan)
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(value) for value in adjusted]


def verdict(difference: Estimate, p: float, margin: float = MARGIN) -> Verdict:
    """What may be said of a difference.

    Args:
        difference: of two rows.
        p: its p-value, adjusted for the family of comparisons that it belongs to.
        margin: see :meth:`Estimate.is_small`. A difference that is shown and small is a difference.
    """
    if p < 1 - LEVEL:
        return "better" if difference.mean < 0 else "worse"
    return "equal" if difference.is_small(margin) else "open"


def verdicts(differences: Sequence[Estimate], margin: float = MARGIN) -> list[Verdict]:
    """Verdicts on a family: :func:`holm` over all of it."""
    adjusted = holm([difference.p for difference in differences])
    return [verdict(d, p, margin) for d, p in zip(differences, adjusted, strict=True)]


def against_reference(values: ArrayLike, reference: ArrayLike, signs: ArrayLike) -> Estimate:
    r"""Delta-m of a row against a reference that is estimated from the same seeds.

    The mean is delta-m of the means, as in :func:`~mtlbench.boards.metrics.delta_m`; the deviation
    is that of its linearisation, which has the reference's noise in it. With :math:`\bar v_m` and
    :math:`\bar b_m` the means over seeds and :math:`R_m = \bar v_m / \bar b_m`,

    .. math:: d_s = \frac{100}{M} \sum_m \sigma_m \frac{v_{ms} - R_m b_{ms}}{\bar b_m}

    Args:
        values: (n, M), a seed a row.
        reference: (n, M), the same seeds.
        signs: (M,), :math:`\sigma_m`: -1 where higher is better, 1 elsewhere.

    Returns:
        NaN for its mean where a value is missing or a reference's mean is not positive.
    """
    v, b, sigma = (np.asarray(x, dtype=float) for x in (values, reference, signs))
    base = b.mean(axis=0)
    if not (base > 0).all():
        return Estimate(len(v), math.nan, math.nan)
    with np.errstate(invalid="ignore"):  # an infinite value has no deviation
        ratio = v.mean(axis=0) / base
        deviations = 100 * ((v - ratio * b) / base * sigma).mean(axis=1)
        mean = float(100 * ((ratio - 1) * sigma).mean())
        spread = float(deviations.std(ddof=1)) if len(v) > 1 else math.nan
    return Estimate(len(v), mean, spread)


def worst_objective(changes: Mapping[str, float]) -> tuple[str, float]:
    r"""The metric that lost most, which an average hides.

    .. math:: \max_m 100 \, \sigma_m (v_m - b_m) / b_m

    Args:
        changes: metric name to its relative change for the worse, in percent.

    Returns:
        Its name and its change; an empty name and NaN where one of them is NaN.
    """
    if not changes or any(math.isnan(change) for change in changes.values()):
        return "", math.nan
    name = max(changes, key=lambda metric: changes[metric])
    return name, changes[name]


def p_improvement(differences: ArrayLike) -> float:
    r"""Share of the seeds on which the first row is better, half of the ties included.

    .. math:: \frac 1 n \sum_s \left([D_s < 0] + \tfrac 1 2 [D_s = 0]\right)
    """
    array = np.asarray(differences, dtype=float)
    found = array[~np.isnan(array)]
    return float(((found < 0) + 0.5 * (found == 0)).mean()) if len(found) else math.nan


def rank_intervals(
    rows: Sequence[Hashable], beaten: Iterable[tuple[Hashable, Hashable]]
) -> dict[Hashable, tuple[int, int]]:
    """The ranks that a row may have: [1 + number clearly better, K - number clearly worse].

    Args:
        rows: K of them.
        beaten: ``(first, second)`` for every pair of which the first is clearly better.
    """
    pairs = list(beaten)
    above = {row: sum(loser == row for _, loser in pairs) for row in rows}
    below = {row: sum(winner == row for winner, _ in pairs) for row in rows}
    return {row: (1 + above[row], len(rows) - below[row]) for row in rows}


def near_best(runs: pd.DataFrame, tau: float = MARGIN) -> pd.Series[float]:
    r"""How often a row is within ``tau`` points of the best one, benchmarks weighted equally.

    .. math:: \frac{1}{|T|} \sum_{t \in T} \frac{1}{|S_t|} \sum_{s \in S_t}
              \left[\Delta_{ts} \le \min_r \Delta_{rts} + \tau\right]

    Delta-m itself is never averaged over benchmarks: a point of it is not the same thing on two.

    Args:
        runs: columns "benchmark", "seed", "row" and "delta_m". Rows that lack a benchmark or a seed
            are left out, and so are runs without a delta-m.
        tau: points of delta-m.

    Returns:
        By row, largest first.
    """
    wide = runs.pivot(index=["benchmark", "seed"], columns="row", values="delta_m")
    whole = wide.dropna(axis="columns")
    near = whole.le(whole.min(axis=1) + tau, axis=0)
    shares = near.groupby(level="benchmark").mean().mean()
    return shares.sort_values(ascending=False, kind="stable")


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval of a statistic when seeds are resampled.

    Args:
        statistic: from n indices of seeds; whatever it looks up (two rows, the reference) is
            resampled jointly.
        n: seeds.
        generator: of the draws.
        draws: number of them.
        level: of the interval.

    Raises:
        ValueError: less than ten seeds.
    """
    if n < ENOUGH_TO_RESAMPLE:
        raise ValueError(f"{n} seeds are too few to resample; it takes {ENOUGH_TO_RESAMPLE}")
    drawn: list[Any] = [statistic(generator.integers(n, size=n)) for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
