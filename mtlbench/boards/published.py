"""The literature's tables: published numbers, with delta-m and mean rank computed again.

They come from other protocols, data and machines than any run of ours, and are never mixed with
them. A row is measured against the single-task row of its own source; a source without one used
that of the released code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mtlbench.boards.metrics import delta_m, mean_rank
from mtlbench.errors import UsageError

DELTAS = {"Delta_m_pct": 1, "Delta_p_pct": -1}
"""What papers print, and its sign."""
_REFERENCE = "STL"
_DASH = "—"
_FOLDER = files("mtlbench.boards.literature")


@dataclass(frozen=True)
class Number:
    """A printed number.

    Args:
        value: as printed.
        half: half a unit of the last digit that its column has: how far rounding may be off.
        text: as in the source.
    """

    value: float
    half: float
    text: str

    def agrees(self, other: Number) -> bool:
        """Whether both may be one number, rounded or cut off (0.5027 is 0.502 in places)."""
        units = [10.0 ** -len(number.text.partition(".")[2]) for number in (self, other)]
        return abs(self.value - other.value) <= sum(units) + 1e-12


@dataclass
class Row:
    """A method in a source.

    Args:
        method: as the source calls it.
        numbers: by name.
        sources: numbers of the sources that have it, from 1.
        secondary: it was not read in the source itself.
        delta: delta-m of its metrics; NaN where one is missing.
        bound: how far rounding can move it from what is printed.
        rank: mean rank among the rows with the same single-task row.
    """

    method: str
    numbers: dict[str, Number]
    sources: list[int]
    secondary: bool
    delta: float = math.nan
    bound: float = math.nan
    rank: float = math.nan

    @property
    def printed(self) -> float:
        """The delta-m that the source prints."""
        found = [sign * self.numbers[n].value for n, sign in DELTAS.items() if n in self.numbers]
        return found[0] + 0.0 if found else math.nan  # no minus zero

    @property
    def disagrees(self) -> bool:
        """Whether the printed delta-m is not that of the printed metrics, rounding allowed for."""
        return abs(self.delta - self.printed) > self.bound

    def repeats(self, other: Row) -> bool:
        """Whether another source copied it."""
        shared = self.numbers.keys() & other.numbers.keys() - {"MR"}
        same = all(self.numbers[name].agrees(other.numbers[name]) for name in shared)
        return self.method == other.method and bool(shared) and same


@dataclass
class Literature:
    """What papers report on a data set.

    Args:
        dataset: its name.
        directions: metric to whether higher is better; empty where only delta-m is published.
        sources: the first has number 1.
        rows: of all sources, each once for every source that has it.
        pools: groups of rows that share a single-task row, merged, by the name of the pool.
        ours: metric to the name that our task has for it.
        base: single-task values of the released code, by metric.
    """

    dataset: str
    directions: Mapping[str, bool]
    sources: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    pools: dict[str, list[Row]] = field(default_factory=dict)
    ours: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Number] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Literature:
        """The published numbers of a data set.

        Raises:
            UsageError: there are none.
        """
        dataset = name.replace("_", "-")
        if dataset not in datasets():
            known = ", ".join(datasets())
            raise UsageError(f"nothing is published here for {name!r}; there are: {known}")
        declared = _read("metrics")
        declared = declared[declared["dataset"] == dataset]
        directions = dict(
            zip(declared["metric"], declared["higher_is_better"] == "true", strict=True)
        )
        table = _with_numbers(_read(dataset))
        found = cls(dataset, directions, list(dict.fromkeys(table["source"])))
        found.ours = dict(zip(declared["metric"], declared["ours"], strict=True))
        code = _with_numbers(_read("stl_baselines"))
        code = code[(code["dataset"] == dataset) & code["metric"].isin(directions)]
        found.base = base = dict(zip(code["metric"], code["number"], strict=True))
        for place, (_, rows) in enumerate(table.groupby("source", sort=False), start=1):
            found._add(place, rows, base)
        for pool in found.pools.values():
            found._rank(pool)
        return found

    def _add(self, place: int, rows: pd.DataFrame, code: Mapping[str, Number]) -> None:
        """The rows of a source."""
        made = [
            Row(
                str(method),
                dict(zip(own["metric"], own["number"], strict=True)),
                [place],
                bool((own["quality"] == "secondary").any()),
            )
            for method, own in rows.groupby("method", sort=False)
        ]
        references = [row for row in made if row.method.startswith(_REFERENCE)]
        base = references[0].numbers if references else code
        shared = code.keys() & base.keys()
        standard = all(base[metric].agrees(code[metric]) for metric in shared)
        pool = self.pools.setdefault("" if standard else self.sources[place - 1], [])
        for row in made:
            if not row.numbers.keys() & {*DELTAS, *self.directions}:
                continue
            self._measure(row, base)
            self.rows.append(row)
            copy = next((other for other in pool if other.repeats(row)), None)
            if copy is None:
                pool.append(row)
            else:
                copy.sources.append(place)

    def _measure(self, row: Row, base: Mapping[str, Number]) -> None:
        """Delta-m again, and how far rounding can move it."""
        metrics = list(self.directions)
        if not metrics or not row.numbers.keys() & base.keys() >= set(metrics):
            return
        values, reference = ({m: of[m].value for m in metrics} for of in (row.numbers, base))
        row.delta = delta_m(values, reference, self.directions)
        moved = [
            row.numbers[m].half / reference[m] + values[m] / reference[m] ** 2 * base[m].half
            for m in metrics
        ]
        printed = sum(row.numbers[name].half for name in DELTAS if name in row.numbers)
        row.bound = 100 * sum(moved) / len(metrics) + printed

    def _rank(self, pool: Sequence[Row]) -> None:
        """Mean ranks among the rows of a pool that have all metrics, the reference aside."""
        whole = [r for r in pool if not math.isnan(r.delta) and not r.method.startswith(_REFERENCE)]
        if not whole:
            return
        values = [{m: row.numbers[m].value for m in self.directions} for row in whole]
        for row, rank in zip(whole, mean_rank(pd.DataFrame(values), self.directions), strict=True):
            row.rank = float(rank)

    def disagreeing(self) -> list[Row]:
        """The rows whose printed delta-m their own metrics contradict."""
        return [row for row in self.rows if row.disagrees]

    def render(self) -> Iterator[RenderableType]:
        """Tables and notes, for rich."""
        for name, pool in self.pools.items():
            if pool:
                yield self._table(name, pool)
        yield Text("\n".join(self.notes()))

    def _table(self, name: str, pool: Sequence[Row]) -> Table:
        protocol = f" · with the single tasks of: {name}" if name else ""
        table = Table(
            title=escape(f"{self.dataset}, AS PUBLISHED: another protocol than our runs{protocol}"),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title_justify="left",
            title_style="bold",
        )
        header, rows = self.cells(pool)
        table.add_column(header[0], overflow="fold", min_width=12)
        for name in header[1:]:
            table.add_column(escape(re.sub("[ _](?!↑|↓)", "\n", name)), justify="right")
        for row, (cells, _), following in zip(pool, rows, [*pool[1:], None], strict=True):
            ends = following is None or following.sources[0] != row.sources[0]
            table.add_row(*map(escape, cells), end_section=ends)
        return table

    def cells(self, pool: Sequence[Row]) -> tuple[list[str], list[tuple[list[str], bool]]]:
        """A header, and by row its cells and whether it is a reference's."""
        arrows = [f"{m} {'↑' if up else '↓'}" for m, up in self.directions.items()]
        again = ["Δm% again", "mean rank"] if self.directions else []
        made = []
        for row in pool:
            metrics = [row.numbers[m].text if m in row.numbers else _DASH for m in self.directions]
            computed = [_number(row.delta) + ("!" if row.disagrees else ""), _number(row.rank)]
            source = " ".join(map(str, row.sources)) + ("*" if row.secondary else "")
            own = [row.method, *metrics, _number(row.printed), *computed[: len(again)], source]
            made.append((own, row.method.startswith(_REFERENCE)))
        return ["method", *arrows, "Δm% printed", *again, "source"], made

    def notes(self) -> Iterator[str]:
        """What has to be known to read the tables."""
        if self.directions:
            yield (
                "Δm% again: of the row's own metrics against the single tasks of its source. Mean "
                "rank: among all rows of a table that have every metric. Printed ranks are left "
                "out: they hold among the rows of their own paper."
            )
        if any(row.secondary for row in self.rows):
            yield "* read in a summary of the paper, not in the paper."
        found = self.disagreeing()
        if found:
            yield "! These rows' metrics give another Δm% than is printed, by more than rounding:"
        for row in found:
            yield (
                f"  {row.method} [{row.sources[0]}]: printed {_number(row.printed)}, its metrics "
                f"give {_number(row.delta)}; rounding explains {row.bound:.2f}"
            )
        used = {place for row in self.rows for place in row.sources}
        for place, source in enumerate(self.sources, start=1):
            if place in used:
                yield f"[{place}] {source}"


def names() -> dict[str, tuple[str, str]]:
    """What methods are called in papers, to our names of a method and a wrapper."""
    table = _read("names")
    pairs = zip(table["method"], table["sharpness"], strict=True)
    return dict(zip(table["published"], pairs, strict=True))


def datasets() -> list[str]:
    """Data sets with published tables: the files whose rows are about what the file is named by."""
    names = sorted(entry.name for entry in _FOLDER.iterdir() if entry.name.endswith(".csv"))
    stems = [name.removesuffix(".csv") for name in names]
    return [stem for stem in stems if set(_read(stem)["dataset"]) == {stem}]


def _read(stem: str) -> pd.DataFrame:
    with _FOLDER.joinpath(f"{stem}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)


def _with_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """With a column of :class:`Number`: a column of a source is printed with one precision."""
    half = pd.Series(
        [0.5 * 10.0 ** -len(text.partition(".")[2]) for text in table["value"]], table.index
    )
    columns = half.groupby([table["dataset"], table["source"], table["metric"]])
    numbers = [
        Number(float(text), float(h), text)
        for text, h in zip(table["value"], columns.transform("min"), strict=True)
    ]
    return table.assign(number=pd.Series(numbers, table.index, dtype=object))


def _number(value: float) -> str:
    return _DASH if math.isnan(value) else f"{value:.2f}"
