"""Our rows beside the printed ones of the same methods, where both are of a published protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from mtlbench.boards.build import Board
from mtlbench.boards.metrics import delta_m
from mtlbench.boards.notes import row_name
from mtlbench.boards.published import Literature, Number, Row, names
from mtlbench.boards.symbols import DASH, DELTA_M, DOWN, UP
from mtlbench.interfaces import TaskInfo

DIGITS = 4
"""Of our numbers."""


def published_groups(info: TaskInfo, board: Board) -> list[pd.DataFrame]:
    """The groups of a board that may stand beside printed tables: real data, and a protocol that is
    one of published tables."""
    published = {p.name for p in info.protocols if p.published}
    firsts = ((rows, rows.iloc[0]) for rows in board.groups())
    return [rows for rows, own in firsts if own["protocol"] in published and not own["stand_in"]]


def beside(literature: Literature, rows: pd.DataFrame, heading: str) -> Table:
    """A group's rows below those that papers print of the same method and wrapper, and what ours
    have more; a row of ours that none prints stands alone.

    Args:
        literature: of the data set.
        rows: of a group.
        heading: what the group's rows share.
    """
    metrics = {m: name for m, name in literature.ours.items() if name in rows}
    table = Table(title=escape(heading), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("row", overflow="fold", min_width=12)
    arrows = [f"{m} {UP if literature.directions[m] else DOWN}" for m in metrics]
    for name in (*arrows, f"{DELTA_M} of the base {DOWN}", f"{DELTA_M} {DOWN}"):
        table.add_column(escape(name.replace(" ", "\n")), justify="right")
    for _, own in rows.iterrows():
        pair = (own["method"], own["sharpness"])
        ours = {m: float(own[name]) for m, name in metrics.items()}
        means = [*ours.values(), of_base(literature, ours), float(own["delta_m"])]
        for cells in _lines(literature, own, rows, _printed(literature, pair), metrics, means):
            table.add_row(*map(escape, cells))
        table.add_section()
    return table


def of_base(literature: Literature, values: Mapping[str, float]) -> float:
    """Delta-m against the single tasks of the released code; NaN where there are none."""
    whole = bool(values) and values.keys() == literature.directions.keys() <= literature.base.keys()
    if not whole:
        return math.nan
    base = {name: literature.base[name].value for name in values}
    return delta_m(values, base, literature.directions)


def _printed(literature: Literature, pair: tuple[str, str]) -> list[Row]:
    known = names()
    rows = [row for pool in literature.pools.values() for row in pool]
    return [row for row in rows if known.get(row.method) == pair]


def _lines(
    literature: Literature,
    own: pd.Series[Any],
    rows: pd.DataFrame,
    printed: Sequence[Row],
    metrics: Mapping[str, str],
    ours: Sequence[float],
) -> Iterator[list[str]]:
    """Ours, and of each printed row the row and the difference."""
    wrapper = row_name(own, rows, "sharpness")
    yield [f"ours: {row_name(own, rows, 'method')} x {wrapper}", *(_text(v) for v in ours)]
    for row in printed:
        found = [row.numbers.get(m) for m in metrics]
        values = [*map(_value, found), row.delta, row.printed]
        place = " ".join(map(str, row.sources))
        texts = [DASH if n is None else n.text for n in found]
        yield [f"{row.method} [{place}]", *texts, _text(row.delta), _text(row.printed)]
        yield ["  ours - theirs", *(_text(a - b, "+") for a, b in zip(ours, values, strict=True))]


def _value(number: Number | None) -> float:
    return math.nan if number is None else number.value


def _text(value: float, sign: str = "") -> str:
    return DASH if math.isnan(value) else f"{value:{sign}.{DIGITS}g}"
