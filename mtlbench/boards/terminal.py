"""Boards for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.layout import Column, Sheet
from mtlbench.boards.notes import notes, row_name
from mtlbench.boards.symbols import DASH, DELTA_M, DOWN, TIMES, UP
from mtlbench.runs.record import Metric

_MOST_METRICS = 4
_RANK = {"metric": 1, "step_ratio": 10, "mean_rank": 20, "passes": 30, "step_ms": 40}
"""What a narrow terminal leaves out: the highest first, of the metrics the last one."""


def render(board: Board) -> list[Sheet]:
    """One sheet a group, for rich."""
    return [_sheet(board, rows) for rows in board.groups()]


def heading(rows: pd.DataFrame) -> str:
    """What a group's rows share, in one line."""
    row = rows.iloc[0]
    options = f" ({row['task_options']})" if row["task_options"] else ""
    source = f"STAND-IN DATA: {row['data_source']}" if row["stand_in"] else row["data_source"]
    protocol = f"{row['protocol']} v{row['protocol_version']}, {row['epochs']} epochs"
    return " · ".join(
        [f"{row['task']}{options}", protocol, source, row["architecture"], row["device_class"]]
    )


def _sheet(board: Board, rows: pd.DataFrame) -> Sheet:
    names = [name for name in board.metrics if rows[name].notna().any()]
    shown = _shown([board.metrics[name] for name in names])
    hidden = len(names) - len(shown)
    left = [f"{hidden} of {len(names)} metrics are in the CSV file only."] if hidden else []
    return Sheet(
        heading=heading(rows),
        columns=_columns(rows, shown),
        styles=["" if status == "ok" else "yellow" for status in rows["status"]],
        rules=[role == "reference" for role in rows["role"]],
        notes=[*left, *notes(board, rows)],
    )


def _columns(rows: pd.DataFrame, shown: Sequence[Metric]) -> list[Column]:
    """From left to right."""
    each = [row for _, row in rows.iterrows()]

    def numbers(name: str, form: str) -> list[str]:
        return [_number(row[name], form) for row in each]

    metrics = [
        Column(_header(metric), numbers(metric.name, _format(rows[metric.name])), rank)
        for rank, metric in enumerate(shown, start=_RANK["metric"])
    ]
    deltas = [_with_deviation(row["delta_m"], row["delta_m_std"]) for row in each]
    step_ms = numbers("step_ms", _format(rows["step_ms"]))
    return [
        Column("method", [row_name(row, rows, "method") for row in each], name=True),
        Column("sharpness", [row_name(row, rows, "sharpness") for row in each], name=True),
        *metrics,
        Column(f"{DELTA_M} {DOWN}", deltas),
        Column(f"mean\nrank {DOWN}", numbers("mean_rank", "{:.2f}"), _RANK["mean_rank"]),
        Column(f"step {DOWN}\nms", step_ms, _RANK["step_ms"]),
        Column(f"step {DOWN}\n{TIMES} base", numbers("step_ratio", "{:.2f}"), _RANK["step_ratio"]),
        Column("fwd/\nbwd", list(map(_passes, each)), _RANK["passes"]),
        Column("seeds", list(map(_seeds, each))),
        *([Column("origin", list(rows["origin"]))] if (rows["origin"] != "own").any() else []),
    ]


def _header(metric: Metric) -> str:
    arrow = UP if metric.higher_is_better else DOWN
    return f"{metric.name} {arrow}_{metric.unit}".replace("_", "\n")


def _passes(row: pd.Series[Any]) -> str:
    passes = [_number(row[name], "{:.3g}") for name in ("forwards", "backwards")]
    return DASH if DASH in passes else "/".join(passes)


def _seeds(row: pd.Series[Any]) -> str:
    """How many; of how many where some are amiss."""
    return str(row["n_seeds"]) if row["status"] == "ok" else row["status"].partition(" ")[0]


def _shown(metrics: Sequence[Metric]) -> list[Metric]:
    """All of a few metrics, the first of each objective of more, none of too many."""
    first = {metric.objective: metric for metric in reversed(metrics)}
    for few in (list(metrics), [m for m in metrics if first[m.objective] is m]):
        if len(few) <= _MOST_METRICS:
            return few
    return []


def _format(column: pd.Series[float]) -> str:
    """Four digits for the column's largest finite number, as many decimals for the others."""
    sizes = column.abs()
    largest = sizes[sizes < math.inf].max()
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 0
    return f"{{:.{max(0, decimals)}f}}"


def _number(value: float, form: str) -> str:
    return DASH if math.isnan(value) else form.format(value)


def _with_deviation(mean: float, std: float) -> str:
    """Mean and standard deviation; the mean alone where one seed gives no deviation."""
    return _number(mean, "{:+.2f}") + ("" if math.isnan(std) else f" ± {std:.2f}")
