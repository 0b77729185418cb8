"""What each tuning seed alone would have chosen, where a table is tuned by several.

python leaderboards/again/choices.py     # tuned/records/trials -> choices.csv
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mtlbench.runs.plan import SweepSpec
from mtlbench.runs.spec import prepare
from mtlbench.runs.store import Store
from mtlbench.runs.tune import tuned

HERE = Path(__file__).parent
TUNED = HERE.parent / "tuned"


def chosen(spec: SweepSpec, seeds: list[int]) -> pd.Series[float]:
    """Learning rates of a specification's cells, by some of its tuning seeds."""
    assert spec.tune is not None
    alone = spec.model_copy(update={"tune": spec.tune.model_copy(update={"seeds": seeds})})
    cells = tuned(alone, Store(TUNED / "records").trials)
    usual = {cell.task: prepare(cell.choice).task.protocol.lr for cell in cells}
    rates = {(c.task, c.method, c.wrapper): c.choice.lr or usual[c.task] for c in cells}
    return pd.Series(rates).rename_axis(["task", "method", "sharpness"])


def main() -> None:
    tables = []
    for path in sorted((TUNED / "specs").glob("*.yaml")):
        spec = SweepSpec.read(path)
        if spec.tune is not None and len(spec.tune.seeds) > 1:
            by_one = {f"seed_{seed}": chosen(spec, [seed]) for seed in spec.tune.seeds}
            tables.append(pd.DataFrame({**by_one, "together": chosen(spec, spec.tune.seeds)}))
    pd.concat(tables).to_csv(HERE / "choices.csv")


if __name__ == "__main__":
    main()
