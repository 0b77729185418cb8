"""Leaderboards for people: a table for the terminal, a plot of quality against run time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from mtlbench.leaderboard import Board
from mtlbench.results import Metric, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_METRICS = 4
_OUTLIER = 8
"""A row this many times the median away turns the plot's axis logarithmic beyond the bulk."""
_TITLE_WIDTH = 95
"""Letters in a line above a plot."""
_DASH = "—"
_TIMES = "\N{MULTIPLICATION SIGN}"
_MARKERS = "osD^vP*Xph<>"
_POINT: dict[str, Any] = {
    "linestyle": "",
    "markersize": 8,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
    "capsize": 3,
    "elinewidth": 1,
}


# ------------------------------------------------------------------------------------ terminal
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
    cost_headers = ["step ↓\nms", f"step ↓\n{_TIMES} base", "fwd/\nbwd"]
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
        _name(row, rows, "method"),
        _name(row, rows, "sharpness"),
        *(_number(row[metric.name], _format(rows[metric.name])) for metric in shown),
        _spread(row["delta_m"], row["delta_m_std"]),
        _number(row["mean_rank"], "{:.2f}"),
        _number(row["step_ms"], _format(rows["step_ms"])),
        _number(row["step_ratio"], "{:.2f}"),
        _DASH if _DASH in passes else "/".join(passes),
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
    return _DASH if math.isnan(value) else form.format(value)


def _spread(mean: float, std: float) -> str:
    """Mean and standard deviation; the mean alone where one seed gives no deviation."""
    return _number(mean, "{:+.2f}") + ("" if math.isnan(std) else f" ± {std:.2f}")


def _name(row: pd.Series[Any], rows: pd.DataFrame, part: Literal["method", "sharpness"]) -> str:
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
        f"{_name(row, rows, 'method')} with {_name(row, rows, 'sharpness')}: {row['status']}"
        for _, row in rows[rows["status"] != "ok"].iterrows()
    ]
    if rows["delta_m"].isna().all():
        notes.append(f"No Δm%: {_why_no_reference(rows)}.")
    else:
        spread = "; ± standard deviation over seeds" if rows["delta_m_std"].notna().any() else ""
        notes.append(f"Δm%: mean change for the worse against the reference{spread}.")
    if rows["step_ratio"].isna().all():
        notes.append(
            f"No {_TIMES} base: that needs the baseline's run of the same seed on the same machine."
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


# ------------------------------------------------------------------------------------ plot
def plot(board: Board, path: Path) -> None:
    """Delta-m against run time, one panel a group; the ending of ``path`` names the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(board.groups())
    figure = Figure(figsize=(8.5, 5 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, rows in zip(figure.subplots(len(groups), squeeze=False).flat, groups, strict=True):
        _panel(axes, rows)
    ending = path.suffix.removeprefix(".")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=ending, dpi=150))


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    drawable = rows[rows["role"] != "reference"]
    drawn = drawable.dropna(subset=["delta_m", "step_ratio"])
    methods = [_name(row, rows, "method") for _, row in drawn.iterrows()]
    wrappers = [_name(row, rows, "sharpness") for _, row in drawn.iterrows()]
    colours = dict(zip(dict.fromkeys(methods), _colours(len(set(methods))), strict=True))
    markers = dict(zip(dict.fromkeys(wrappers), cycle(_MARKERS), strict=False))
    points = zip(methods, wrappers, drawn.iterrows(), strict=True)
    for method, wrapper, (_, row) in points:
        axes.errorbar(
            row["step_ratio"],
            row["delta_m"],
            yerr=None if math.isnan(row["delta_m_std"]) else row["delta_m_std"],
            color=colours[method],
            marker=markers[wrapper],
            **_POINT,
        )
    sizes = drawn["delta_m"].abs()
    if sizes.max() > _OUTLIER * sizes.median() > 0:
        axes.set_yscale("symlog", linthresh=2 * sizes.median())
        axes.yaxis.set_major_formatter("{x:g}")
    axes.axhline(0, color="0.5", linewidth=1, linestyle="--", zorder=1)
    axes.margins(0.08)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}" + _TIMES)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel("step time relative to the plain baseline (left is faster)")
    axes.set_ylabel("Δm% against the reference (down is better)")
    task, _, rest = heading(rows).partition(" · ")
    axes.set_title("\n".join([task, *wrap(rest, _TITLE_WIDTH)]), loc="left", fontsize=10)
    _legends(axes, colours, markers)
    _remarks(axes, drawn, len(drawable) - len(drawn))


def _remarks(axes: Axes, drawn: pd.DataFrame, n_missing: int) -> None:
    """What the panel's marks do not say, below it."""
    remarks = ["dashed: the reference"]
    if drawn["delta_m_std"].notna().any():
        remarks.append("bars: standard deviation over seeds")
    if n_missing:
        total = n_missing + len(drawn)
        remarks.append(f"not drawn for want of results: {n_missing} of {total} rows")
    text = "; ".join(remarks)
    axes.annotate(
        text, (1, -0.13), xycoords="axes fraction", ha="right", va="top", fontsize=8, color="0.35"
    )


def _legends(axes: Axes, colours: Mapping[str, Any], markers: Mapping[str, str]) -> None:
    """Colours and markers, right of the panel."""
    from matplotlib.lines import Line2D

    def mark(**style: Any) -> Line2D:
        return Line2D([], [], linestyle="", **style)

    entries = [("method", mark())]
    entries += [(name, mark(marker="o", color=colour)) for name, colour in colours.items()]
    entries += [("", mark()), ("sharpness", mark())]
    entries += [(name, mark(marker=marker, color="0.3")) for name, marker in markers.items()]
    labels, handles = zip(*entries, strict=True)
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _colours(count: int) -> list[Any]:
    """Colours that can be told apart, as far as there are any."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["turbo"](i / (count - 1)) for i in range(count)]
