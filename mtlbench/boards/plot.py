"""Quality against run time, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.notes import Part, row_name
from mtlbench.boards.symbols import TIMES
from mtlbench.boards.terminal import heading
from mtlbench.files import write_atomically
from mtlbench.svg import digest, made_by, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_OUTLIER = 8
"""A row this many times the median away turns the plot's axis logarithmic beyond the bulk."""
_TITLE_WIDTH = 95
"""Letters in a line above a plot."""
_MARKERS = "osD^vP*Xph<>"
_POINT: dict[str, Any] = {
    "linestyle": "",
    "markersize": 8,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
    "capsize": 3,
    "elinewidth": 1,
}


def plot(board: Board, path: Path) -> None:
    """Delta-m against run time, one panel a group, as an SVG file."""
    text = picture(board)
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def picture(board: Board) -> str:
    """The file that :func:`plot` writes, the same bytes every time."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    groups = list(board.groups())
    height = max(5.0, *map(_legend_height, groups))
    figure = Figure(figsize=(8.5, height * len(groups)), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, rows in zip(figure.subplots(len(groups), squeeze=False).flat, groups, strict=True):
        _panel(axes, rows)
    drawn = svg(figure, board.task)
    return f'<?xml version="1.0"?>\n<!-- {made_by()}, of {digest(figure)} -->\n{drawn}\n'


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    drawable = rows[rows["role"] != "reference"]
    finite = drawable[["delta_m", "step_ratio"]].abs() < math.inf
    drawn = drawable[finite.all(axis=1)]
    methods = [row_name(row, rows, "method") for _, row in drawn.iterrows()]
    wrappers = [row_name(row, rows, "sharpness") for _, row in drawn.iterrows()]
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
    axes.xaxis.set_major_formatter("{x:g}" + TIMES)
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


def _legend_height(rows: pd.DataFrame) -> float:
    """Of a panel that has room for its legends, in inches."""
    parts: tuple[Part, Part] = ("method", "sharpness")
    names = {row_name(row, rows, part) for _, row in rows.iterrows() for part in parts}
    return 1.6 + 0.215 * len(names)


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
