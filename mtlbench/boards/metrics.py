r"""Numbers that sum a row up: delta-m against a reference, and the mean rank within a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import pandas as pd

DIGITS = 6
"""Significant digits of a metric that are compared, as many as the CSV files have."""


def delta_m(
    values: Mapping[str, float],
    reference: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
) -> float:
    r"""Average relative loss of performance against a reference, in percent; lower is better.

    From `"Attentive Single-Tasking of Multiple Tasks" <https://arxiv.org/abs/1904.08918>`_, over
    the M metrics as in `"Nash-MTL" <https://arxiv.org/abs/2202.01017>`_.

    .. math:: \Delta m\% = \frac{100}{M} \sum_{m=1}^{M} (-1)^{[m \text{ higher is better}]}
              \frac{v_m - b_m}{b_m}

    Args:
        values: metric name to value :math:`v_m`.
        reference: metric name to value :math:`b_m`, on the same scale.
        higher_is_better: metric name to direction; its keys are the metrics that count.

    Returns:
        Percent. NaN where a value is missing or NaN, and where a reference value is not positive: a
        relative change has no meaning there.
    """
    return fmean(changes(values, reference, higher_is_better).values())


def delta_m_per_task(
    values: Mapping[str, float],
    reference: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
    objectives: Mapping[str, str],
) -> float:
    """Like :func:`delta_m`, averaged within each objective first and then over them, as in LibMTL.

    Args:
        values: as in :func:`delta_m`.
        reference: as in :func:`delta_m`.
        higher_is_better: as in :func:`delta_m`.
        objectives: metric name to the objective that it judges.
    """
    by_objective: dict[str, list[float]] = {}
    for name, change in changes(values, reference, higher_is_better).items():
        by_objective.setdefault(objectives[name], []).append(change)
    return fmean(map(fmean, by_objective.values()))


def mean_rank(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> pd.Series[float]:
    """Mean over the metrics of each row's rank, 1 being the best; ties share their mean rank.

    Ranked is what the CSV files print, six significant digits: beyond them values differ by the
    rounding of float32 alone, 91.39999 and 91.4, which would break ties at random.

    Args:
        table: methods x metrics.
        higher_is_better: metric name to direction; its keys are the columns that count.

    Returns:
        One number a row; NaN for a row with a missing value, which takes no part in the ranking.
    """
    columns = table[list(higher_is_better)].astype(float).map(rounded)
    complete = columns.loc[columns.notna().all(axis=1)]
    ranks = [
        complete[name].rank(method="average", ascending=not higher)
        for name, higher in higher_is_better.items()
    ]
    return pd.concat(ranks, axis=1).mean(axis=1).reindex(table.index)


def rounded(number: float) -> float:
    """To :data:`DIGITS` significant digits."""
    return float(f"{number:.{DIGITS}g}")


def changes(
    values: Mapping[str, float],
    reference: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
) -> dict[str, float]:
    """Relative change of each metric in percent, positive where it got worse."""
    found = {}
    for name, higher in higher_is_better.items():
        value, base = values.get(name, math.nan), reference.get(name, math.nan)
        change = 100 * (value - base) / base if base > 0 else math.nan
        found[name] = -change if higher else change
    return found
