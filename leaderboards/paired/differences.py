"""Paired differences in delta-m of the committed leaderboards, seed by seed.

    mtlbench leaderboard leaderboards/records --out leaderboards
    python leaderboards/paired/differences.py

Writes ``differences.csv``: each wrapper against the same method without one, and each method
against the baseline, with the mean difference over the seeds (below 0: the first is better), its
95 % t-interval, and Holm's p over the rows of a task. SAMO by sign (``points=by-sign``) is a
wrapper of its own; otherwise rows of runs with other options than the newest of their kind are left
out.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
from pairing import difference, holm

HERE = Path(__file__).parent
CELL = ["method_title", "wrapper"]


def wrapper(run: pd.Series) -> str:
    """The wrapper's title, and what makes it another than the paper's."""
    by_sign = "points=by-sign" in str(run["sharpness_options"]).split(",")
    title: str = run["sharpness_title"]
    return f"{title} by sign" if by_sign else title


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """All pairs of one task."""
    by_seed = runs.pivot_table(index="seed", columns=CELL, values="delta_m")
    baseline = runs.loc[runs["role"] == "baseline", "method_title"].iloc[0]
    methods, wrappers = (list(dict.fromkeys(runs[name])) for name in CELL)
    pairs = [((m, w), (m, "none")) for m, w in product(methods, wrappers) if w != "none"]
    pairs += [((m, "none"), (baseline, "none")) for m in methods if m != baseline]
    rows = [
        {"first": " x ".join(a), "second": " x ".join(b), **difference(by_seed, a, b)}
        for a, b in pairs
        if a in by_seed and b in by_seed
    ]
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    return table


def main() -> None:
    tables = []
    for path in sorted(HERE.parent.glob("*_seeds.csv")):
        runs = pd.read_csv(path)
        runs = runs[(runs["role"] != "reference") & (runs["status"] == "ok")]
        runs["wrapper"] = runs.apply(wrapper, axis=1)
        newest = runs.sort_values("started").drop_duplicates([*CELL, "seed"], keep="last")
        table = differences(newest)
        table.insert(0, "task", path.stem.removesuffix("_seeds"))
        tables.append(table)
    table = pd.concat(tables)
    table.to_csv(HERE / "differences.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    main()
