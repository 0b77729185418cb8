"""Statistics of rows that were trained with the same seeds."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from scipy import stats


def difference(by_seed: pd.DataFrame, first: Hashable, second: Hashable) -> dict[str, float]:
    """``first`` less ``second`` over the seeds that both have, with a 95 % t-interval; no interval
    from one seed.

    Args:
        by_seed: a row a seed, a column a cell.
        first: a column.
        second: another one.
    """
    found = (by_seed[first] - by_seed[second]).dropna().to_numpy()
    n = len(found)
    half = stats.sem(found) * stats.t.ppf(0.975, n - 1) if n > 1 else float("nan")
    return {
        "seeds": n,
        "difference": found.mean(),
        "low": found.mean() - half,
        "high": found.mean() + half,
        "p": stats.ttest_1samp(found, 0).pvalue if n > 1 else float("nan"),
    }


def holm(p: pd.Series) -> np.ndarray:
    """Holm's adjusted p-values."""
    order = np.argsort(p.to_numpy())
    stepped = p.to_numpy()[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted
