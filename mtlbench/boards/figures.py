"""The page's pictures: inline SVG in the page's colours, the same bytes every time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from mtlbench.boards.groups import Table
from mtlbench.boards.places import GROUP, ROW
from mtlbench.boards.statistics import VERDICTS
from mtlbench.boards.symbols import TIMES
from mtlbench.drawing import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    figure_of,
    inline,
    legend,
    multiples,
    title,
)

if TYPE_CHECKING:
    pass

SHOWN = VERDICTS[:3]
"""What tests have shown."""
_BAND = "#8a8a8a"
_FILLS: tuple[Literal["full", "left", "bottom", "top"], ...] = ("full", "left", "bottom", "top")
"""Of marks, for more methods than there are colours."""
_MOST_NAMES = 13
"""Bars that have room for their names."""
_SHORT = 26
"""Letters of a row's name that leave a plot of differences its room."""
_LEGEND_COLUMNS = 3
_OUTLIER = 8
"""An axis with a value this many times the median one is logarithmic beyond the bulk."""


def figures(table: Table, known: pd.DataFrame, histories: pd.DataFrame) -> list[str]:
    """What can be drawn of a group.

    Args:
        table: the group.
        known: its pairs.
        histories: of any groups, as :func:`~mtlbench.boards.build.histories` makes them.
    """
    drawn = [*_against_time(table), *_forest(table, known), *_objectives(table)]
    return [*drawn, *_curves(table, histories)]


def _salt(table: Table, kind: str) -> str:
    """What tells the ids of a picture from those of all others."""
    return f"{kind}{hashlib.sha256(table.heading.encode()).hexdigest()[:8]}"


def _task(table: Table) -> str:
    return str(table.rows["task"].iloc[0])


# ------------------------------------------------------------------------------------ what
def _against_time(table: Table) -> Iterator[str]:
    """Delta-m against step time, with intervals that have the reference's noise."""
    from matplotlib.lines import Line2D

    rows = table.compared.dropna(subset=["delta_m", "step_ratio"])
    rows = rows[rows[["delta_m", "step_ratio"]].abs().max(axis=1) < math.inf]
    if rows.empty:
        return
    methods, wrappers = (list(dict.fromkeys(rows[f"{p}_title"])) for p in ("method", "sharpness"))
    entries = [*methods, *wrappers, "Pareto front"]
    figure, (axes,) = figure_of(5.2, 4 + 0.24 * math.ceil(len(entries) / _LEGEND_COLUMNS))
    points, tips = [], {}
    for number, (_, row) in enumerate(rows.iterrows()):
        found = table.against_reference(row["name"])
        low, high = found.interval()
        points.append((float(row["step_ratio"]), found.mean))
        mark, *_ = axes.errorbar(
            *points[-1],
            yerr=None if math.isnan(low) else (high - low) / 2,
            **_method_style(methods.index(row["method_title"])),
            marker=MARKERS[wrappers.index(row["sharpness_title"]) % len(MARKERS)],
            markersize=7,
            capsize=2,
            elinewidth=1,
            linestyle="",
        )
        mark.set_gid(f"tip{number}-")
        tips[f"tip{number}-"] = f"{row['name']}: Δm% {found.mean:.2f}, {points[-1][0]:.2f}{TIMES}"
    front = pareto(points)
    axes.plot(*zip(*front, strict=True), color=INK, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    _bulk_first(axes, pd.Series([delta for _, delta in points]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}" + TIMES)
    axes.set_xlabel("step time over the baseline's")
    axes.set_ylabel("Δm%")
    marks = [
        Line2D([], [], linestyle="", marker="o", label=name, **_method_style(i))
        for i, name in enumerate(methods)
    ]
    marks += [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=INK, label=name)
        for i, name in enumerate(wrappers)
    ]
    marks.append(Line2D([], [], color=INK, linewidth=1, label="Pareto front"))
    legend(figure, marks, "outside lower center", _LEGEND_COLUMNS)
    caption = (
        "Δm% against step time (left and down is better). Colour and filling: the method; shape: "
        "the wrapper. Bars: 95 % intervals, the reference's own noise included; dashed: the "
        "reference; line: the Pareto front of the means, of which noise has its part."
    )
    label = f"{_task(table)}: delta-m against step time"
    yield inline(figure, label, caption, _salt(table, "t"), tips=tips)


def _method_style(number: int) -> dict[str, Any]:
    """Colour and filling, by which as many methods can be told apart as both have."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "fillstyle": _FILLS[number // len(COLOURS) % len(_FILLS)],
        "markerfacecoloralt": "None",
    }


def _bulk_first(axes: Any, values: pd.Series[float]) -> None:
    """An axis on which a few that are far off leave room for the others."""
    sizes = values.abs()
    if sizes.max() > _OUTLIER * sizes.median() > 0:
        linear = float(f"{2 * sizes.median():.1g}")
        axes.set_yscale("symlog", linthresh=linear)
        axes.yaxis.set_major_formatter("{x:g}")
        ticks = [linear * factor for factor in (0.5, 1, 4, 20, 100, 400)]
        shown = [tick for tick in ticks if tick <= sizes.max()]
        axes.set_yticks([-linear, -linear / 2, 0, *shown])
        axes.minorticks_off()


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is better than in one coordinate and no worse in the other, less
    being better; by their first coordinate."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _forest(table: Table, known: pd.DataFrame) -> Iterator[str]:
    """Differences to the baseline, with intervals."""
    plain = table.compared[(table.compared["role"] == "baseline") & table.compared["plain"]]
    if len(plain) != 1:
        return
    baseline = plain["name"].iloc[0]
    met = known[(known["second"] == baseline) & known["low"].notna()]
    if met.empty:
        return
    names = list(met["first"].iloc[::-1])
    figure, (axes,) = figure_of(5.2, 1 + 0.25 * len(met))
    for y, (_, pair) in enumerate(met.iloc[::-1].iterrows()):
        shown = pair["question_verdict" if pair["question"] else "verdict"] in SHOWN
        axes.plot([pair["low"], pair["high"]], [y, y], color=COLOURS[0], linewidth=1.5)
        # A clear filling would make the edge clear, too: matplotlib has one alpha for both.
        axes.plot(
            pair["difference"],
            y,
            marker="o",
            color=COLOURS[0],
            markerfacecolor=COLOURS[0] if shown else "None",
            markeredgewidth=1.5,
        )
    axes.axvspan(-1, 1, color=_BAND, alpha=0.25, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    # Lines of one label would be ragged in another font.
    size = 10 if max(map(len, names)) <= _SHORT else 7.5
    axes.set_yticks(range(len(met)), names, fontsize=size)
    widest = met[["low", "high"]].abs().to_numpy().max()
    if widest > 20:
        axes.set_xscale("symlog", linthresh=5)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xticks([t for t in (-100, -20, -5, 0, 5, 20, 100) if abs(t) <= widest])
        axes.set_xlim(1.3 * min(met["low"].min(), -5), 1.3 * max(met["high"].max(), 5))
    axes.set_xlabel(f"points of Δm% more than {baseline}")
    caption = (
        f"Paired differences to {baseline} (left is better) with 95 % intervals. Grey: ±1 point. "
        "Filled: shown to be better, worse or equal, with Holm's correction over the questions "
        "above, or over all pairs for what is none of them; hollow: open."
    )
    label = f"{_task(table)}: differences to {baseline}"
    yield inline(figure, label, caption, _salt(table, "f"))


def _objectives(table: Table) -> Iterator[str]:
    """What each objective lost against the reference, row by row."""
    lost = {name: found for name in table.compared["name"] if (found := by_objective(table, name))}
    if not lost:
        return
    names = list(next(iter(lost.values())))
    named = len(names) <= _MOST_NAMES
    height = 0.45 + (0.17 * len(names) if named else 1.3)
    figure, panels = multiples(len(lost), height)
    for axes, (row, values) in zip(panels, lost.items(), strict=True):
        widths = list(values.values()) if named else sorted(values.values())
        colours = [COLOURS[1] if width > 0 else COLOURS[0] for width in widths]
        axes.barh(range(len(widths)), widths, color=colours, height=0.8 if named else 1.0)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.tick_params(axis="y", labelsize=8)
        title(axes, row)
    panels[0].set_yticks(range(len(names)) if named else [], names if named else [])
    panels[0].invert_yaxis()
    every = pd.Series([v for values in lost.values() for v in values.values()])
    sizes = every.abs()
    if sizes.max() > _OUTLIER * sizes.median() > 0:
        linear = float(f"{2 * sizes.median():.1g}")
        panels[0].set_xscale("symlog", linthresh=linear)
        panels[0].xaxis.set_major_formatter("{x:g}")
        ticks = [linear * factor for factor in (1, 4, 20, 100, 400, 2000)]
        panels[0].set_xticks([-linear, 0, *(tick for tick in ticks if tick <= sizes.max())])
        panels[0].set_xlim(1.3 * min(every.min(), -linear), 1.3 * sizes.max())
    figure.supxlabel("change for the worse against the reference, %", color=INK, fontsize=10)
    order = "" if named else f" The {len(names)} objectives from the best to the worst."
    caption = (
        "Each objective against a network of its own (left is better), the mean over its metrics "
        f"and over seeds.{order}"
    )
    label = f"{_task(table)}: objectives against the reference"
    yield inline(figure, label, caption, _salt(table, "o"), wide=True)


def by_objective(table: Table, name: str) -> Mapping[str, float]:
    """Change for the worse of each objective against the reference, in percent: the mean over its
    metrics, of means over seeds. Empty where that is not known."""
    lost = table.lost(name)
    if not lost or any(math.isnan(value) for value in lost.values()):
        return {}
    objectives = [table.metrics[metric].objective for metric in lost]
    means = pd.Series(lost.values(), dtype=float).groupby(objectives, sort=False).mean()
    return {str(objective): float(value) for objective, value in means.items()}


def _curves(table: Table, histories: pd.DataFrame) -> Iterator[str]:
    """How selection scores went, a panel a method, a line a wrapper."""
    from matplotlib.lines import Line2D

    keys = table.compared[[*GROUP, *ROW, "name", "method_title", "sharpness_title"]]
    found = histories.merge(keys, on=[*GROUP, *ROW])
    means = found.groupby(["name", "epoch"], sort=False)["score"].mean().unstack("epoch")
    if means.shape[1] < 2:
        return
    rows = table.compared[table.compared["name"].isin(means.index)]
    methods, wrappers = (list(dict.fromkeys(rows[f"{p}_title"])) for p in ("method", "sharpness"))
    styles: list[dict[str, Any]] = [
        {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        for i in range(len(wrappers))
    ]
    figure, panels = multiples(len(methods), 1.8)
    for _, row in rows.iterrows():
        scores = means.loc[row["name"]]
        style = styles[wrappers.index(row["sharpness_title"])]
        panel = panels[methods.index(row["method_title"])]
        panel.plot(scores.index, scores, linewidth=1.3, **style)
    for axes, method in zip(panels, methods, strict=True):
        title(axes, method)
    values = pd.Series(means.to_numpy().ravel()).dropna()
    span = values.max() - values.quantile(0.1)
    if span > 0:  # the first epochs may lie far below
        panels[0].set_ylim(values.quantile(0.1) - 0.1 * span, values.max() + 0.1 * span)
    figure.supxlabel("epoch", color=INK, fontsize=10)
    figure.supylabel("selection score", color=INK, fontsize=10)
    entries = [Line2D([], [], label=w, **s) for w, s in zip(wrappers, styles, strict=True)]
    legend(figure, entries)
    caption = (
        "Learning curves: what epochs are selected by, on validation (more is better), the mean "
        "over seeds; rows with options of their own have a line each."
    )
    label = f"{_task(table)}: learning curves"
    yield inline(figure, label, caption, _salt(table, "c"), wide=True)
