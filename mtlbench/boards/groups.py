"""The groups of a board, each of them a table of its own: rows by name, runs by seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtlbench.boards.build import Board
from mtlbench.boards.metrics import changes
from mtlbench.boards.notes import row_name
from mtlbench.boards.places import GROUP, ROW
from mtlbench.boards.statistics import Estimate, against_reference, worst_objective
from mtlbench.boards.terminal import heading
from mtlbench.boards.times import MACHINE
from mtlbench.runs.record import Metric


@dataclass(frozen=True)
class Table:
    """The runs of a group that came to their end, by the name of their row.

    Args:
        heading: what the group shares.
        rows: of the board, with a column "name".
        runs: one a seed, with a column "name", and "machine" for what step times have to share.
        metrics: of the group.
    """

    heading: str
    rows: pd.DataFrame
    runs: pd.DataFrame
    metrics: Mapping[str, Metric]

    @property
    def compared(self) -> pd.DataFrame:
        """The rows but for the reference's."""
        return self.rows[self.rows["role"] != "reference"]

    @cached_property
    def _by_name(self) -> dict[str, pd.DataFrame]:
        return {str(name): runs.set_index("seed") for name, runs in self.runs.groupby("name")}

    def of(self, name: str) -> pd.DataFrame:
        """The runs of a row, by seed."""
        return self._by_name.get(name, self.runs.iloc[:0].set_index("seed"))

    def wide(self, column: str) -> pd.DataFrame:
        """A column of the runs as seeds x names, empty where there is no run."""
        return self.runs.pivot(index="seed", columns="name", values=column).reindex(
            columns=self.rows["name"]
        )

    @property
    def has_reference(self) -> bool:
        """Whether there is a delta-m at all."""
        return bool(self.runs["delta_m"].notna().any())

    @cached_property
    def _reference(self) -> pd.DataFrame:
        """The runs that delta-m is measured against, by seed."""
        names = self.rows.loc[(self.rows["role"] == "reference") & self.rows["plain"], "name"]
        return self.of(names.iloc[0])

    def with_reference(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds that the reference has, too."""
        return [seed for seed in seeds if seed in self._reference.index]

    def _is_whole(self, name: str) -> bool:
        """Whether all runs of a row came to their end; a seed that it was never run with is no
        hole in its means."""
        return bool(self.rows.loc[self.rows["name"] == name, "delta_m"].notna().all())

    @cached_property
    def averages_last(self) -> bool:
        """Whether the protocol takes the mean of the last epochs' scores, and selects none: then
        the selected epoch is what is kept beside; or, in records from before it was, every
        reference run counts its last epoch, and yet its scores differ from those of that epoch."""
        if not self.has_reference:
            return False
        beside = set(self._reference["beside"]) - {""}
        if beside:
            return beside == {"selected"}
        metrics, ends = list(self.metrics), set(self.rows["epochs"] - 1)
        base = self._reference
        counted = {int(n) for text in base["selected_epoch"] for n in str(text).split()}
        last = base[[f"{name}_last" for name in metrics]].set_axis(metrics, axis=1)
        return counted == ends and not last.equals(base[metrics])

    def scores(self, name: str, seeds: Sequence[int], at: str = "") -> NDArray[np.float64]:
        """(2, n, M): the metrics of a row and of the reference, a seed a row; ``at`` as below."""
        columns = [metric + at for metric in self.metrics]
        mine, base = (runs.loc[list(seeds), columns] for runs in (self.of(name), self._reference))
        return np.stack([mine, base]).astype(float)

    @property
    def signs(self) -> list[int]:
        """(M,): -1 where higher is better, 1 elsewhere."""
        return [-1 if metric.higher_is_better else 1 for metric in self.metrics.values()]

    def against_reference(self, name: str, at: Literal["", "_last", "_beside"] = "") -> Estimate:
        """Delta-m of a row, with the reference's own noise, on the seeds that both have; NaN if one
        of its runs did not come to its end, or there is no such seed.

        Args:
            name: of the row.
            at: empty for the scores that count by the protocol, "_last" for the last epoch's,
                "_beside" for those that the protocol might have taken; NaN where a record has none.
        """
        own = list(self.of(name).index)
        if not self.has_reference or not self._is_whole(name):
            return Estimate(len(own), math.nan, math.nan)
        seeds = self.with_reference(own)
        if not seeds:
            return Estimate(0, math.nan, math.nan)
        mine, base = self.scores(name, seeds, at)
        return against_reference(mine, base, self.signs)

    def lost(self, name: str) -> dict[str, float]:
        """Change for the worse of each metric against the reference, in percent, on the means;
        empty where there is none."""
        if not self.has_reference or not self._is_whole(name):
            return {}
        seeds = self.with_reference(list(self.of(name).index))
        means, base = (
            runs.loc[seeds, list(self.metrics)].mean(skipna=False)
            for runs in (self.of(name), self._reference)
        )
        directions = {m: metric.higher_is_better for m, metric in self.metrics.items()}
        return changes(_floats(means), _floats(base), directions)

    def worst(self, name: str) -> tuple[str, float]:
        """The metric that lost most against the reference, and how much, on the means."""
        return worst_objective(self.lost(name))


def _floats(values: pd.Series[float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def tables(board: Board) -> Iterator[Table]:
    """The groups of a board."""
    for rows in board.groups():
        names = _names(rows)
        by_row = dict(zip(rows[ROW].itertuples(index=False, name=None), names, strict=True))
        runs = board.seeds.merge(rows[GROUP].drop_duplicates(), on=GROUP)
        runs = runs[runs["status"] == "ok"]
        runs = runs.assign(
            name=[by_row[key] for key in runs[ROW].itertuples(index=False)],
            machine=list(map(str, runs[MACHINE].itertuples(index=False, name=None))),
        )
        metrics = {name: m for name, m in board.metrics.items() if rows[name].notna().any()}
        yield Table(heading(rows), rows.assign(name=names), runs, metrics)


def _names(rows: pd.DataFrame) -> list[str]:
    """Titles, joined by an x where there is a wrapper; with the method's name where titles are not
    enough."""
    named = []
    for _, row in rows.iterrows():
        method = row_name(row, rows, "method")
        named.append(method if row["plain"] else f"{method} x {row_name(row, rows, 'sharpness')}")
    twice = {name for name, times in Counter(named).items() if times > 1}
    full = rows[["method", "sharpness"]].agg(" x ".join, axis=1)
    return [f"{n} ({f})" if n in twice else n for n, f in zip(named, full, strict=True)]
