"""What has to be known to read a table, as lines below it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.places import ROW, option_texts
from mtlbench.boards.symbols import DELTA_M, TIMES
from mtlbench.errors import UsageError
from mtlbench.registry import METHODS, SHARPNESS, Registry, defaults

Part = Literal["method", "sharpness"]
_REGISTRIES: Mapping[Part, Registry[Any]] = {"method": METHODS, "sharpness": SHARPNESS}


def notes(board: Board, rows: pd.DataFrame) -> list[str]:
    """All that holds for a group's table, whatever of it is shown."""
    runs = board.runs(rows)
    found = [*_amiss(rows, runs), *_seeds(rows, runs), _delta(board, rows), *_times(rows, runs)]
    return [*found, *_handed_in(rows, runs), *_options(rows)]


def _times(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    """Rows whose step times are of no use, and why."""
    lacking = rows[rows["step_ratio"].isna()]
    some = lacking[(lacking["status"] == "ok") & (lacking["role"] != "reference")]
    none = len(lacking) == len(rows)
    if some.empty and not none:
        return
    which = "" if none else _named(some, rows)
    yield (
        f"No {TIMES} base{which}: that needs the baseline's run of the same seed on the same "
        "machine, with as many runs at a time; one command makes both."
    )


def _handed_in(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    """Which rows others handed in, and which of their runs were made again here."""
    found = rows[rows["origin"] != "own"]
    parts = []
    for _, row in found.iterrows():
        own = _runs(runs, row)
        again = own.loc[own["origin"] == "verified", "seed"]
        parts.append(f"{_name(row, rows)} ({len(again)} of {len(own)} runs)")
    if parts:
        yield (
            "Handed in by others; verified where all runs were made again here and came out the "
            f"same, or as near as two draws of a seed are (mtlbench verify): {', '.join(parts)}."
        )


def _amiss(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    """Rows that are not whole, and what their runs ended of."""
    for _, row in rows[rows["status"] != "ok"].iterrows():
        own = _runs(runs, row)
        reasons = dict.fromkeys(reason for reason in own["reason"] if reason)
        because = f" ({'; '.join(reasons)})" if reasons else ""
        yield f"{_name(row, rows)}: {row['status']}{because}"
    if (rows["status"].str.contains(" missing") & (rows["n_seeds"] > 0)).any():
        yield (
            "A row that lacks seeds is compared on those that it has, and not ranked; run them "
            "to have it ranked."
        )
    if rows["status"].str.contains(" without ").any():
        yield (
            "A metric that is NaN counts as none: what made it so is to be mended, the record "
            "deleted, and the run made again."
        )


def _seeds(rows: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    """Which seeds some rows have beyond those that they are compared on."""
    left_out = []
    for _, row in rows.iterrows():
        own = _runs(runs, row)
        more = set(own.loc[own["status"] == "ok", "seed"].map(str)) - set(row["seeds"].split())
        if more:
            left_out.append(f"{_name(row, rows)} {' '.join(sorted(more, key=int))}")
    if left_out:
        common = {int(seed) for seeds in rows["seeds"] for seed in seeds.split()}
        yield (
            f"Compared on the seeds in common: {' '.join(map(str, sorted(common)))}; "
            f"left out: {', '.join(left_out)}."
        )


def _runs(runs: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame:
    return runs[(runs[ROW] == row[ROW]).all(axis=1)]


def _delta(board: Board, rows: pd.DataFrame) -> str:
    if rows["delta_m"].isna().all():
        return f"No {DELTA_M}: {_why_no_delta(board, rows)}."
    spread = "; ± standard deviation over seeds" if rows["delta_m_std"].notna().any() else ""
    return f"{DELTA_M}: mean change for the worse against the reference{spread}."


def _why_no_delta(board: Board, rows: pd.DataFrame) -> str:
    found = rows[(rows["role"] == "reference") & rows["plain"]]
    if len(found) != 1:
        return f"the group has {len(found)} reference rows"
    reference = found.iloc[0]
    if reference["status"] != "ok":
        return f"the reference is incomplete ({reference['status']})"
    values = {name: float(reference[name]) for name in board.metrics}
    useless = [f"{name} is {v:g}" for name, v in values.items() if not 0 < v < math.inf]
    if useless:
        return f"the reference's {', '.join(useless)}, and no change is relative to that"
    return "no row shares a seed with the reference"


def _options(rows: pd.DataFrame) -> list[str]:
    """Options that all rows of a title share and that are not the defaults; the table's cells leave
    them out."""
    parts = []
    for part, registry in _REGISTRIES.items():
        for title, same in rows.groupby(f"{part}_title", sort=False):
            usual = _defaults(registry, same.iloc[0][part])
            options = [o for o in _shared_options(same[f"{part}_options"]) if o not in usual]
            if options:
                parts.append(f"{title} {','.join(options)}")
    return [f"Options: {'; '.join(parts)}"] if parts else []


def _defaults(registry: Registry[Any], name: str) -> list[str]:
    """Options at their defaults, as rows write them; none of what is not installed here."""
    try:
        return option_texts(defaults(registry.get(name)))
    except UsageError:
        return []


def _named(some: pd.DataFrame, rows: pd.DataFrame) -> str:
    return f" of {', '.join(_name(row, rows) for _, row in some.iterrows())}"


def _name(row: pd.Series[Any], rows: pd.DataFrame) -> str:
    return f"{row_name(row, rows, 'method')} with {row_name(row, rows, 'sharpness')}"


def row_name(row: pd.Series[Any], rows: pd.DataFrame, part: Part) -> str:
    """Title, with the options that tell it from rows of the same title."""
    shared = _shared_options(rows.loc[rows[part] == row[part], f"{part}_options"])
    own = [o for o in row[f"{part}_options"].split(",") if o not in shared]
    return f"{row[f'{part}_title']} {','.join(own)}".strip()


def _shared_options(texts: pd.Series[str]) -> list[str]:
    """Options that all rows have."""
    first, *others = (text.split(",") for text in texts.unique())
    return [o for o in first if o and all(o in other for other in others)]
