"""Do wrappers do what they are said to: do the task gradients' cosines rise, does the Hessian's
largest eigenvalue fall, and does a lower one go with a better result?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtlbench.boards.statistics import Estimate, holm
from mtlbench.drawing import COLOURS, INK, MARKERS, figure_of, inline, legend, title
from mtlbench.files import to_csv

RUNS = "runs.csv"
"""All that a study is made of."""
LEVEL = 0.05
_CELL = ["task", "method", "wrapper", "options"]
_QUANTITIES = {
    "cosine": ("trunk", "late cosine"),
    "conflict": ("trunk", "late conflict"),
    "lambda_1": ("mean", "lambda_1"),
    "trace": ("mean", "trace"),
    "sharpness": ("mean", "sharpness"),
    "score": ("test", "score"),
}
"""Columns of a run's row, with where they are in its diagnosis."""
_LOGARITHMIC = ("lambda_1", "ratio", "sharpness")
"""Compared by factors."""
_SAID = {
    "cosine": "mean cosine of task gradients in the second half of training",
    "conflict": "share of pairs with a negative cosine there",
    "lambda_1": "factor of the largest eigenvalue of the mean loss's Hessian",
    "ratio": "factor of its ratio to the last eigenvalue computed, the fifth by default",
    "sharpness": "factor of the mean loss's sharpness",
    "score": "test score by which epochs are selected (more is better)",
}


@dataclass(frozen=True)
class Study:
    """A study's tables.

    Args:
        runs: a row a run.
        effects: a row for each wrapper, method, task and quantity: mean paired difference to the
            method without a wrapper, or factor, with its 95 % t-interval and Holm's p over all
            effects on the quantity.
        correlations: rank correlation of the largest eigenvalue with the test score, by task.
    """

    runs: pd.DataFrame
    effects: pd.DataFrame
    correlations: pd.DataFrame

    @classmethod
    def of(cls, runs: pd.DataFrame) -> Study:
        """What follows from the runs of :func:`runs_of`."""
        return cls(runs, _effects(runs), _correlations(runs))

    @classmethod
    def read(cls, folder: Path) -> Study | None:
        """That of a folder, made again from its :data:`RUNS`; None if it has none."""
        path = folder / RUNS
        if not path.is_file():
            return None
        return cls.of(pd.read_csv(path, keep_default_na=False, na_values=[""]))

    def files(self) -> dict[str, str]:
        """What follows from the runs, by the name of its file."""
        return {
            "effects.csv": to_csv(self.effects),
            "correlations.csv": to_csv(self.correlations),
            "README.md": text(self),
        }


def runs_of(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row a run, from the tables of ``mtlbench diagnose``, one below the other."""
    rows = []
    for name, frame in numbers.groupby("run", sort=False):
        first = frame.iloc[0]
        row: dict[str, Any] = {key: first[key] for key in (*_CELL, "plain", "seed")}
        for column, (of, quantity) in _QUANTITIES.items():
            found = frame[(frame["of"] == of) & (frame["quantity"] == quantity)]
            row[column] = float(found["value"].iloc[0]) if len(found) else math.nan
        named = frame["quantity"].str.startswith("lambda_1 /") & (frame["of"] == "mean")
        row["ratio"] = float(frame.loc[named, "value"].iloc[0]) if named.any() else math.nan
        lambdas = frame[frame["quantity"].str.fullmatch(r"lambda_\d+") & (frame["of"] == "mean")]
        row["converged"] = (lambdas["note"] == "").all()
        rows.append(row | {"run": name})
    found = pd.DataFrame(rows)
    found["wrapper"] = _names(found)
    return found.sort_values([*_CELL, "seed"], kind="stable", ignore_index=True)


def _names(runs: pd.DataFrame) -> list[str]:
    """Wrappers with those of their options in which they differ on a task."""
    options = [json.loads(text)[1] for text in runs["options"]]
    names = []
    for task, wrapper, own in zip(runs["task"], runs["wrapper"], options, strict=True):
        alike = (runs["task"] == task) & (runs["wrapper"] == wrapper)
        others = [o for o, same in zip(options, alike, strict=True) if same]
        differing = [k for k in own if len({str(o.get(k)) for o in others}) > 1]
        differing += [k for o in others for k in o if k not in own and k not in differing]
        said = ", ".join(f"{k}={own[k]}" for k in differing if k in own)
        names.append(f"{wrapper} {said}".strip())
    return names


def _effects(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (task, method, wrapper), mine in runs[~runs["plain"]].groupby(
        ["task", "method", "wrapper"], sort=False
    ):
        same = (runs["task"] == task) & (runs["method"] == method) & runs["plain"]
        plain = runs[same].set_index("seed")
        own = mine.set_index("seed")
        seeds = own.index.intersection(plain.index)
        for quantity in _SAID:
            a, b = own.loc[seeds, quantity], plain.loc[seeds, quantity]
            factor = quantity in _LOGARITHMIC
            found = Estimate.of(np.log(a / b) if factor else a - b)
            low, high = found.interval()
            ends = [math.exp(x) if factor else x for x in (found.mean, low, high)]
            row = {"task": task, "method": method, "wrapper": wrapper, "quantity": quantity}
            named = dict(zip(("effect", "low", "high"), ends, strict=True))
            rows.append(row | {"seeds": found.n} | named | {"p": found.p})
    columns = [*["task", "method", "wrapper", "quantity", "seeds", "effect", "low", "high", "p"]]
    effects = pd.DataFrame(rows, columns=columns).assign(p_holm=math.nan)
    for quantity in _SAID:
        tested = (effects["quantity"] == quantity) & effects["p"].notna()
        effects.loc[tested, "p_holm"] = holm(effects.loc[tested, "p"].tolist())
    return effects


def _correlations(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for task, mine in runs.groupby("task", sort=False):
        cells = mine.groupby(["method", "wrapper"])[["lambda_1", "score"]].mean()
        for over, frame in (("runs", mine), ("means of cells", cells)):
            rho, low, high = spearman(frame["lambda_1"], frame["score"])
            row = {"task": task, "over": over, "n": len(frame), "spearman": rho}
            rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def spearman(x: pd.Series[float], y: pd.Series[float]) -> tuple[float, float, float]:
    r"""Spearman's rank correlation, and its 95 % interval by Fisher's z with Bonett and Wright's
    standard error :math:`\sqrt{(1 + r^2 / 2) / (n - 3)}`; NaN where there are too few."""
    known = x.notna() & y.notna()
    n = int(known.sum())
    if n < 3:
        return math.nan, math.nan, math.nan
    r = float(np.corrcoef(x[known].rank(), y[known].rank())[0, 1])
    if n < 5 or abs(r) == 1 or math.isnan(r):
        return r, math.nan, math.nan
    half = 1.959964 * math.sqrt((1 + r**2 / 2) / (n - 3))
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


# ------------------------------------------------------------------------------------ in words
def answers(study: Study) -> Iterator[str]:
    """What the tables show, in sentences."""
    rises = {
        "cosine": "the cosine is higher",
        "lambda_1": "the largest eigenvalue is higher",
        "ratio": "its ratio to the fifth is higher",
    }
    effects = study.effects
    for quantity, said in rises.items():
        mine = effects[(effects["quantity"] == quantity) & effects["effect"].notna()]
        if mine.empty:
            continue
        at = 1.0 if quantity in _LOGARITHMIC else 0.0
        shown = mine["p_holm"] < LEVEL
        up, down = (
            int((shown & (mine["effect"] > at)).sum()),
            int((shown & (mine["effect"] < at)).sum()),
        )
        yield (
            f"With a wrapper, {said} in {up} and lower in {down} of {len(mine)} "
            f"comparisons with the same method without one; {len(mine) - up - down} are open "
            "(paired seeds, Holm's correction)."
        )
    for _, row in study.correlations[study.correlations["over"] == "runs"].iterrows():
        sure = row["low"] > 0 or row["high"] < 0
        verdict = (
            "open"
            if not sure
            else "a flatter end is better"
            if row["high"] < 0
            else ("a sharper end is better")
        )
        yield (
            f"{row['task']}: rank correlation of the largest eigenvalue with the test score "
            f"{row['spearman']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) over {row['n']} "
            f"runs: {verdict}."
        )
    unsure = int((~study.runs["converged"]).sum())
    if unsure:
        yield f"{unsure} of {len(study.runs)} runs have an eigenvalue that did not converge."


def text(study: Study) -> str:
    """The study as Markdown."""
    lines = ["# Seeing why: conflict, sharpness, results", ""]
    lines += [f"- {answer}" for answer in answers(study)]
    lines += [
        "",
        "Each cell: mean over paired seeds against the same method without a wrapper, "
        "95 % interval; * by Holm's correction over the column.",
        "",
    ]
    header, rows = _table(study)
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"{name}: {said}." for name, said in _SAID.items()), "", _HOW]
    return "\n".join(lines) + "\n"


_HOW = (
    "Made from the runs of the specs in this folder, see their first lines, by `mtlbench diagnose "
    "RUNS --study FOLDER`; `runs.csv`, `effects.csv` and `correlations.csv` have all numbers. "
    "Intervals of correlations take runs as independent, which seeds of one cell are not."
)


def _table(study: Study) -> tuple[list[str], list[list[str]]]:
    """A row a task, method and wrapper; its effects on each quantity."""
    rows = []
    for (task, method, wrapper), mine in study.effects.groupby(
        ["task", "method", "wrapper"], sort=False
    ):
        by = mine.set_index("quantity")
        cells = [_cell(by.loc[quantity]) for quantity in _SAID]
        rows.append([f"{task}: {method} x {wrapper}", str(by["seeds"].iloc[0]), *cells])
    return ["row", "seeds", *_SAID], rows


def _cell(row: Any) -> str:
    if math.isnan(row["effect"]):
        return ""
    sign = "" if row.name in _LOGARITHMIC else "+"
    shown = f"{row['effect']:{sign}.2g}"
    if not math.isnan(row["low"]):
        shown += f" ({row['low']:{sign}.2g} to {row['high']:{sign}.2g})"
    return shown + (" *" if row["p_holm"] < LEVEL else "")


def section(study: Study) -> str:
    """The study as a part of the page."""
    said = "".join(f"<li>{escape(answer)}</li>" for answer in answers(study))
    header, rows = _table(study)
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    notes = "".join(f"<br>{name}: {escape(what)}" for name, what in _SAID.items())
    return (
        '<section><h2 id="why">Seeing why: conflict, sharpness, results</h2>'
        f'<div class="answer"><ul>{said}</ul></div>'
        f'<div class="scroll" tabindex="0"><table class="effects"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
        f'<p class="soft">Against the same method without a wrapper, paired seeds, '
        f"95 % intervals; * with Holm's correction over the column.{notes}</p>"
        f'<div class="figures">{"".join(_figures(study))}</div></section>'
    )


# ------------------------------------------------------------------------------------ drawn
def _figures(study: Study) -> Iterator[str]:
    for task, runs in study.runs.groupby("task", sort=False):
        effects = study.effects[study.effects["task"] == task]
        if effects["low"].notna().any():
            yield _forest(str(task), effects)
        if runs[["lambda_1", "score"]].notna().all(axis=None):
            yield _scatter(str(task), runs)


def _forest(task: str, effects: pd.DataFrame) -> str:
    names = list(dict.fromkeys(zip(effects["method"], effects["wrapper"], strict=True)))
    kinds = ("cosine", "lambda_1", "score")
    figure, panels = figure_of(12, 1 + 0.28 * len(names), 1, len(kinds), share=False)
    for axes, kind in zip(panels, kinds, strict=True):
        factor = kind in _LOGARITHMIC
        for y, name in enumerate(reversed(names)):
            mine = (effects["method"] == name[0]) & (effects["wrapper"] == name[1])
            row = effects[mine & (effects["quantity"] == kind)].iloc[0]
            shown = row["p_holm"] < LEVEL
            axes.plot([row["low"], row["high"]], [y, y], color=COLOURS[0], linewidth=1.5)
            fill = COLOURS[0] if shown else "None"
            axes.plot(row["effect"], y, "o", color=COLOURS[0], markerfacecolor=fill)
        axes.axvline(1 if factor else 0, color=INK, linewidth=0.8)
        if factor:
            _logarithmic(axes)
        labelled = axes is panels[0]
        labels = [f"{m} x {w}" for m, w in reversed(names)] if labelled else []
        axes.set_yticks(range(len(names)) if labelled else [], labels, fontsize=8)
        axes.set_ylim(-0.6, len(names) - 0.4)
        title(axes, _SAID[kind], 44)
    caption = (
        f"{task}: what a wrapper changes, against the same method without one: means over paired "
        "seeds and 95 % intervals; filled where Holm's correction leaves it shown."
    )
    return inline(figure, f"{task}: effects of wrappers", caption, f"we{task}", wide=True)


def _scatter(task: str, runs: pd.DataFrame) -> str:
    from matplotlib.lines import Line2D

    figure, (axes,) = figure_of(12, 4)
    methods, wrappers = (list(dict.fromkeys(runs[c])) for c in ("method", "wrapper"))
    for _, run in runs.iterrows():
        colour = COLOURS[methods.index(run["method"]) % len(COLOURS)]
        marker = MARKERS[wrappers.index(run["wrapper"]) % len(MARKERS)]
        axes.plot(run["lambda_1"], run["score"], marker, color=colour, markersize=6, alpha=0.8)
    _logarithmic(axes)
    axes.set_xlabel("largest eigenvalue of the mean loss's Hessian")
    axes.set_ylabel("test score")
    entries = [
        Line2D([], [], linestyle="", marker="o", color=COLOURS[i % len(COLOURS)], label=name)
        for i, name in enumerate(methods)
    ]
    entries += [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=INK, label=name)
        for i, name in enumerate(wrappers)
    ]
    legend(figure, entries)
    caption = f"{task}: how sharp every run ended, and how well it does on the test split."
    return inline(figure, f"{task}: sharpness and test score", caption, f"ws{task}", wide=True)


def _logarithmic(axes: Any) -> None:
    """A scale with few numbers, written out."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
