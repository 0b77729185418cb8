"""How evenly long the directions are that methods make of qm9's gradients.

    python leaderboards/diagnose/lengths.py     # -> lengths.csv

A direction that is many times its usual length once in a while is a sign of weights that jump from
batch to batch. Two epochs of each method of the leaderboard without a wrapper, with a seed that no
leaderboard reports.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from mtlbench import GradientView, Update, WeightingMethod
from mtlbench.registry import METHODS, Spec
from mtlbench.runs.execute import execute
from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.spec import RunSpec, prepare
from mtlbench.runs.store import Store

HERE = Path(__file__).parent
TASK, SEED, EPOCHS = "qm9", 1000, 2


def lengths(method: str, store: Store) -> pd.Series[float]:
    """Of the trunk's direction, step by step."""
    cls, _ = METHODS.resolve(Spec.parse(method))
    found, aggregate = [], cls.aggregate

    def watched(self: WeightingMethod, view: GradientView) -> Update:
        update = aggregate(self, view)
        found.append(float(update.shared.norm()))
        return update

    with patch.object(cls, "aggregate", watched):
        execute(prepare(RunSpec(TASK, method, seed=SEED, epochs=EPOCHS, device="cpu")), store)
    return pd.Series(found)


def main() -> None:
    methods = SweepSpec.read(HERE.parent / "specs" / f"{TASK}.yaml").methods
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods[1:]:  # the first is the reference
            steps = lengths(method, Store(Path(folder)))
            rms, median = float((steps**2).mean()) ** 0.5, float(steps.median())
            rows.append({"method": method, "steps": len(steps), "median": median, "rms": rms})
    table = pd.DataFrame(rows).assign(ratio=lambda t: t["rms"] / t["median"])
    table.to_csv(HERE / "lengths.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
