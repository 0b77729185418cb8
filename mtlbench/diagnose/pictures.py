"""Pictures of diagnoses, in the look of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mtlbench.diagnose.conflict import dynamics, trunk
from mtlbench.drawing import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    colour_bar,
    figure_of,
    legend,
    multiples,
    title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOMENTS = 4
"""Matrices that are drawn of a training."""
_NAMED = 12
"""Tasks that have room for their names."""
_LEVELS = 12


def cosines(frame: pd.DataFrame) -> Figure:
    """The K x K cosines of the trunk's task gradients, means over parts of the training."""
    found = trunk(frame)
    names = _tasks(found, "norm")
    parts = np.array_split(np.sort(found["step"].unique()), _MOMENTS)
    parts = [part for part in parts if len(part)]
    figure, every = figure_of(3.1 * len(parts) + 1, 3.3, 1, len(parts))
    image = None
    for axes, part in zip(every, parts, strict=True):
        means = found[found["step"].isin(part)].mean(numeric_only=True)
        image = axes.imshow(_matrix(means, names), cmap="RdBu", vmin=-1, vmax=1)
        title(axes, f"steps {part[0]} to {part[-1]}")
        places = range(len(names)) if len(names) <= _NAMED else []
        axes.set_xticks(places, names if places else [], rotation=90, fontsize=8)
        axes.set_yticks(places, names if places else [], fontsize=8)
        if len(names) <= 4:
            _write_numbers(axes, _matrix(means, names))
    colour_bar(figure, image, every, "cosine of task gradients")
    return figure


def _matrix(means: pd.Series[float], names: Sequence[str]) -> Any:
    matrix = np.eye(len(names))
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], start=i + 1):
            matrix[i, j] = matrix[j, i] = means[f"cosine/{first}|{second}"]
    return matrix


def _write_numbers(axes: Any, matrix: Any) -> None:
    for (i, j), value in np.ndenumerate(matrix):
        shade = "white" if abs(value) > 0.6 else "#333333"
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=9)


def over_time(frame: pd.DataFrame) -> Figure:
    """Mean cosine and conflict rate, the method's weights, and the gradients' norms, by epoch."""
    found = trunk(frame).groupby("epoch").mean(numeric_only=True)
    kinds = [kind for kind in ("weight", "norm") if _tasks(found, kind)]
    figure, every = figure_of(4 * (1 + len(kinds)), 3.2, 1, 1 + len(kinds), share=False)
    first, *others = every
    for i, column in enumerate(("cosine", "conflict")):
        first.plot(found.index, found[column], color=COLOURS[i], linestyle=LINES[i], label=column)
    first.axhline(0, color=INK, linewidth=0.6)
    title(first, "mean cosine of pairs, share in conflict")
    legend(first, first.get_lines()[:2], "best")
    for axes, kind in zip(others, kinds, strict=True):
        names = _tasks(found, kind)
        for i, name in enumerate(names):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % 4]}
            axes.plot(found.index, found[f"{kind}/{name}"], linewidth=1.3, label=name, **style)
        title(axes, {"weight": "weights of the tasks", "norm": "gradients' norms"}[kind])
        if kind == "norm":
            axes.set_yscale("log")
    if kinds and len(_tasks(found, kinds[0])) <= _NAMED:
        legend(figure, others[0].get_lines())
    for axes in every:
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("epoch", color=INK, fontsize=10)
    return figure


def by_layer(frame: pd.DataFrame) -> Figure:
    """The mean cosine of each layer, from the input to the output, by epoch."""
    from matplotlib import colormaps

    found = dynamics(frame)
    figure, (axes,) = figure_of(7.5, 3.6)
    colours = colormaps["viridis"](np.linspace(0.05, 0.9, len(found.columns)))
    smooth = found.rolling(max(1, len(found) // 10), min_periods=1).mean()
    for i, layer in enumerate(found.columns):
        style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        style["markevery"] = max(1, len(found) // 8)
        axes.plot(smooth.index, smooth[layer], color=colours[i], label=layer, **style)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("mean cosine")
    legend(figure, axes.get_lines()[: len(found.columns)])
    return figure


def spectra(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """The largest eigenvalues of each run side by side, a panel a loss; hollow where one did not
    converge, bars the residuals.

    Args:
        runs: name to table, see :func:`~mtlbench.diagnose.report.numbers`.
    """
    values = {name: _eigenvalues(frame) for name, frame in runs.items()}
    losses = list(dict.fromkeys(of for frame in values.values() for of in frame["of"]))
    figure, panels = multiples(len(losses), 2.4)
    entries: list[Any] = []
    for axes, of in zip(panels, losses, strict=True):
        entries = []
        for i, (name, frame) in enumerate(values.items()):
            mine = frame[frame["of"] == of]
            colour, x = COLOURS[i % len(COLOURS)], mine["rank"] + 0.08 * (i - len(values) / 2)
            sure = mine["note"] == ""
            line = axes.errorbar(
                x, mine["value"], mine["error"], color=colour, linewidth=0.8, capsize=2
            )
            marker = MARKERS[i // len(COLOURS) % len(MARKERS)]
            axes.plot(x[sure], mine["value"][sure], marker, color=colour, markersize=5)
            style = {"markerfacecolor": "None", "markeredgecolor": colour, "markersize": 5}
            axes.plot(x[~sure], mine["value"][~sure], marker, **style)
            line.set_label(name)
            entries.append(line)
        title(axes, of)
        axes.set_xticks(sorted({int(r) for f in values.values() for r in f["rank"]}))
    if all((frame["value"] > 0).all() for frame in values.values()):
        panels[0].set_yscale("log")
    figure.supxlabel("i", color=INK, fontsize=10)
    figure.supylabel("eigenvalue λ$_i$ of the Hessian", color=INK, fontsize=10)
    if len(values) > 1:
        legend(figure, entries)
    return figure


def _eigenvalues(frame: pd.DataFrame) -> pd.DataFrame:
    found = frame[frame["quantity"].str.fullmatch(r"lambda_\d+")]
    return found.assign(rank=found["quantity"].str.removeprefix("lambda_").astype(int))


def along(frame: pd.DataFrame, x_label: str, ends: Sequence[str] = ()) -> Figure:
    """Losses along a line, a panel an objective.

    Args:
        frame: columns ``x`` and one an objective.
        x_label: of x.
        ends: names of x = 0, and of x = 1.
    """
    objectives = [name for name in frame.columns if name != "x"]
    figure, panels = _own_scales(len(objectives))
    for i, (axes, objective) in enumerate(zip(panels, objectives, strict=True)):
        axes.plot(frame["x"], frame[objective], color=COLOURS[i % len(COLOURS)], linewidth=1.5)
        for x, (name, marker) in enumerate(zip(ends or ("here",), MARKERS, strict=False)):
            y = float(np.interp(x, frame["x"], frame[objective]))
            style: dict[str, Any] = {"color": INK, "markersize": 5, "linestyle": ""}
            axes.plot(x, y, marker, label=name, **style)
        title(axes, objective)
    legend(figure, panels[0].get_lines()[1:])
    figure.supxlabel(x_label, color=INK, fontsize=10)
    figure.supylabel("loss", color=INK, fontsize=10)
    return figure


def plane(frame: pd.DataFrame, label: str) -> Figure:
    """Losses in a plane, a panel an objective, the network in the middle; colours are logarithmic
    where a loss grows by more than ten times."""
    from matplotlib.colors import LogNorm, Normalize

    objectives = [name for name in frame.columns if name not in ("x", "y")]
    figure, panels = _own_scales(len(objectives), height=2.9)
    sides = [np.sort(frame[axis].unique()) for axis in ("x", "y")]
    for axes, objective in zip(panels, objectives, strict=True):
        values = frame.pivot_table(values=objective, index="y", columns="x").to_numpy()
        low, high = float(values.min()), float(values.max())
        steep = low > 0 and high > 10 * low
        levels = (np.geomspace if steep else np.linspace)(low, high, _LEVELS) if high > low else 1
        norm: Any = LogNorm(low, high) if steep else Normalize(low, high)
        drawn = axes.contourf(*sides, values, levels, cmap="viridis", norm=norm)
        axes.plot(0, 0, "*", color="white", markeredgecolor="#333333", markersize=11)
        axes.set_aspect("equal")
        title(axes, objective)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, format="{x:.3g}")
        bar.ax.tick_params(colors=INK, labelsize=7)
    figure.supxlabel(label, color=INK, fontsize=10)
    return figure


def _own_scales(n: int, height: float = 2.2) -> tuple[Figure, list[Any]]:
    """Panels whose scales differ."""
    columns = min(n, 4)
    rows = -(-n // columns)
    figure, every = figure_of(3.1 * columns + 1.2, 0.6 + height * rows, rows, columns, share=False)
    for spare in every[n:]:
        spare.set_visible(False)
    return figure, every[:n]


def _tasks(frame: pd.DataFrame, kind: str) -> list[str]:
    """Tasks that have numbers of a kind."""
    start = f"{kind}/"
    named = [str(c) for c in frame.columns if str(c).startswith(start)]
    return [c.removeprefix(start) for c in named if frame[c].notna().any()]
