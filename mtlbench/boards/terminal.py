"""Boards for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from mtlbench.boards.build import Board
from mtlbench.runs.record import Metric

_MOST_METRICS = 4
DASH = "—"
TIMES = "\N{MULTIPLICATION SIGN}"


def render(board: Board) -> list[Table]:
    """One table a group, for rich."""
    return [_table(board, rows) for rows in board.groups()]


def heading(rows: pd.DataFrame) -> str:
    """What a group's rows share, in one line."""
    row = rows.iloc[0]
    options = f" ({row['task_options']})" if row["task_options"] else ""
    source = f"STAND-IN DATA: {row['data_source']}" if row["stand_in"] else row["data_source"]
    protocol = f"{row['protocol']} v{row['protocol_version']}, {row['epochs']} epochs"
    return " · ".join(
        [f"{row['task']}{options}", protocol, source, row["architecture"], row["device_class"]]
    )


def _table(board: Board, rows: pd.DataFrame) -> Table:
    names = [name for name in board.metrics if rows[name].notna().any()]
    shown = _shown([board.metrics[name] for name in names])
    table = Table(
        title=escape(heading(rows)),
        caption=escape("\n".join(_notes(rows))),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    for header in ("method", "sharpness"):
        table.add_column(header, overflow="fold", min_width=len(header))
    metric_headers = [f"{m.name} {_arrow(m)}_{m.unit}".replace("_", "\n") for m in shown]
    cost_headers = ["step ↓\nms", f"step ↓\n{TIMES} base", "fwd/\nbwd"]
    for header in (*metric_headers, "Δm% ↓", "mean\nrank ↓", *cost_headers, "seeds"):
        table.add_column(escape(header), justify="right", no_wrap=True)
    for _, row in rows.iterrows():
        style = None if row["status"] == "ok" else "yellow"
        is_reference = row["role"] == "reference"
        table.add_row(*map(escape, _cells(row, rows, shown)), style=style, end_section=is_reference)
    return table


def _shown(metrics: Sequence[Metric]) -> list[Metric]:
    """All of a few metrics, the first of each objective of more, none of too many."""
    first = {metric.objective: metric for metric in reversed(metrics)}
    for few in (list(metrics), [m for m in metrics if first[m.objective] is m]):
        if len(few) <= _MOST_METRICS:
            return few
    return []


def _cells(row: pd.Series[Any], rows: pd.DataFrame, shown: Sequence[Metric]) -> list[str]:
    passes = [_number(row[name], "{:.3g}") for name in ("forwards", "backwards")]
    return [
        row_name(row, rows, "method"),
        row_name(row, rows, "sharpness"),
        *(_number(row[metric.name], _format(rows[metric.name])) for metric in shown),
        _with_deviation(row["delta_m"], row["delta_m_std"]),
        _number(row["mean_rank"], "{:.2f}"),
        _number(row["step_ms"], _format(rows["step_ms"])),
        _number(row["step_ratio"], "{:.2f}"),
        DASH if DASH in passes else "/".join(passes),
        str(row["n_seeds"]) if row["status"] == "ok" else row["status"].partition(" ")[0],
    ]


def _format(column: pd.Series[float]) -> str:
    """Four digits for the column's largest number, and as many decimals for the others."""
    largest = column.abs().max()
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 0
    return f"{{:.{max(0, decimals)}f}}"


def _arrow(metric: Metric) -> str:
    return "↑" if metric.higher_is_better else "↓"


def _number(value: float, form: str) -> str:
    return DASH if math.isnan(value) else form.format(value)


def _with_deviation(mean: float, std: float) -> str:
    """Mean and standard deviation; the mean alone where one seed gives no deviation."""
    return _number(mean, "{:+.2f}") + ("" if math.isnan(std) else f" ± {std:.2f}")


def row_name(row: pd.Series[Any], rows: pd.DataFrame, part: Literal["method", "sharpness"]) -> str:
    """Title, with the options that tell it from rows of the same title."""
    shared = _shared_options(rows.loc[rows[part] == row[part], f"{part}_options"])
    own = [o for o in row[f"{part}_options"].split(",") if o not in shared]
    return f"{row[f'{part}_title']} {','.join(own)}".strip()


def _shared_options(texts: pd.Series[str]) -> list[str]:
    """Options that all rows have."""
    first, *others = (text.split(",") for text in texts.unique())
    return [o for o in first if o and all(o in other for other in others)]


def _notes(rows: pd.DataFrame) -> list[str]:
    """What has to be known to read the table."""
    notes = [
        f"{row_name(row, rows, 'method')} with {row_name(row, rows, 'sharpness')}: {row['status']}"
        for _, row in rows[rows["status"] != "ok"].iterrows()
    ]
    if rows["delta_m"].isna().all():
        notes.append(f"No Δm%: {_why_no_reference(rows)}.")
    else:
        spread = "; ± standard deviation over seeds" if rows["delta_m_std"].notna().any() else ""
        notes.append(f"Δm%: mean change for the worse against the reference{spread}.")
    if rows["step_ratio"].isna().all():
        notes.append(
            f"No {TIMES} base: that needs the baseline's run of the same seed on the same machine."
        )
    return [*notes, *_common_options(rows)]


def _why_no_reference(rows: pd.DataFrame) -> str:
    found = rows[(rows["role"] == "reference") & rows["plain"]]
    if len(found) == 1:
        return f"the reference is incomplete ({found.iloc[0]['status']})"
    return f"the group has {len(found)} reference rows"


def _common_options(rows: pd.DataFrame) -> list[str]:
    """Options that all rows of a title share, which the table's cells leave out."""
    parts = []
    for part in ("method", "sharpness"):
        for title, same in rows.groupby(f"{part}_title", sort=False):
            options = _shared_options(same[f"{part}_options"])
            if options:
                parts.append(f"{title} {','.join(options)}")
    return [f"Options: {'; '.join(parts)}"] if parts else []
