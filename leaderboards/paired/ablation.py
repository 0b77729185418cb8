"""Paired comparisons of the ablation's runs: does SAMO beat its parts, what do the cheap ones lose?

    mtlbench leaderboard leaderboards/ablation/records --out leaderboards/ablation
    python leaderboards/paired/ablation.py

Writes ``ablation.csv``: for each task, method and pair of wrappers the mean difference of
delta-m over the seeds (below 0: the first is better), its 95 % t-interval, and Holm's p over all
rows.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pairing import difference, holm

HERE = Path(__file__).parent
TABLES = HERE.parent / "ablation"
TASKS = ("multimnist", "qm9")
NAMES = {
    "noise=shared": "SAMO, shared noise",
    "noise=shared difference=forward": "SAMO, shared noise, forward",
    "layers=ends": "SAMO, sampled layers",
}
PAIRS = [
    ("SAMO", "none"),
    ("SAMO", "SAM"),
    ("SAMO", "L-SAM"),
    ("SAMO", "F-MTL"),
    *((name, "SAMO") for name in NAMES.values()),
]


def variant(row: pd.Series) -> str:
    """The wrapper's title; SAMO's with what sets the variant apart."""
    options = str(row["sharpness_options"]).split(",")
    told = [o for o in ("noise=shared", "difference=forward", "layers=ends") if o in options]
    return NAMES.get(" ".join(told), row["sharpness_title"])


def compare(runs: pd.DataFrame, first: str, second: str) -> dict[str, object]:
    """Paired over the seeds that both have."""
    by_seed = runs.pivot_table(index="seed", columns="variant", values="delta_m")
    ratios = runs.groupby("variant")["step_ratio"].median()
    return {
        "first": first,
        "second": second,
        **difference(by_seed, first, second),
        "time": float(ratios[first] / ratios[second]),
    }


def main() -> None:
    rows = []
    for task in TASKS:
        runs = pd.read_csv(TABLES / f"{task}_seeds.csv")
        runs = runs[(runs["role"] != "reference") & (runs["status"] == "ok")]
        runs["variant"] = runs.apply(variant, axis=1)
        for method, mine in runs.groupby("method_title", sort=False):
            present = set(mine["variant"])
            rows += [
                {"task": task, "method": method, **compare(mine, *pair)}
                for pair in PAIRS
                if present.issuperset(pair)
            ]
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"])
    table.to_csv(HERE / "ablation.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    main()
