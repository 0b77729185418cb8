"""Boards as one static page: what they show in plain words first, then tables and pictures.

One file, which asks no network for anything. Without scripts it is read as it is; with them its
tables can be sorted and filtered.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.comparisons import Table, pairs, standings, summary, tables
from mtlbench.boards.formats import DASH, cells
from mtlbench.boards.published import Literature, datasets
from mtlbench.boards.symbols import TIMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2b86cc", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8c7a00", "#7f7f7f")
"""Near Okabe and Ito's, which the colour-blind can tell apart; all show on light and on dark."""
_MARKERS = "osD^vP*Xph<>"
_INK = "#010203"
"""What the page's text colour replaces in pictures."""
_SHOWN = ("better", "worse", "equal")


def page(boards: Mapping[str, Board]) -> str:
    """The page as HTML.

    Args:
        boards: by task.
    """
    parts = [part for board in boards.values() for part in _sections(board)]
    links = [f'<a href="#{escape(task)}">{escape(task)}</a>' for task in boards]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>mtlbench: leaderboards</title>\n<style>\n{_asset('page.css')}</style>",
            "</head>\n<body>",
            '<button id="theme" type="button" hidden>light / dark</button>',
            "<h1>mtlbench: leaderboards</h1>",
            "<p>Δm% is the mean change for the worse against networks of one task each; less is "
            "better. Better and worse are said where a test shows them, equal likewise; the rest "
            "is open.</p>",
            f"<nav>{' '.join([*links, PUBLISHED_LINK])}</nav>",
            "<noscript><p>Without scripts the tables are complete, but cannot be sorted.</p>"
            "</noscript>",
            *parts,
            *_literature(),
            f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


PUBLISHED_LINK = '<a href="#published">as published</a>'


def _asset(name: str) -> str:
    return files("mtlbench.boards").joinpath(name).read_text(encoding="utf-8")


def _sections(board: Board) -> Iterator[str]:
    known = pairs(board)
    placed = standings(board, known)
    for place, (table, said) in enumerate(zip(tables(board), summary(board, known), strict=True)):
        mine = known[known["group"] == table.heading]
        anchor = board.task if place == 0 else f"{board.task}-{place + 1}"
        yield f'<section><h2 id="{escape(anchor)}">{escape(board.task)}</h2>'
        yield f'<p class="soft">{escape(table.heading)}</p>'
        yield _answer(mine, said)
        yield _rows(table, placed[placed["group"] == table.heading])
        figures = [*_against_time(table), *_forest(table, mine)]
        yield f'<div class="figures">{"".join(figures)}</div></section>'


def _answer(known: pd.DataFrame, said: str) -> str:
    """The questions that are decided, and how many are not."""
    asked = known[known["question"] != ""]
    found = asked[asked["question_verdict"].isin(_SHOWN)]
    lines = []
    for _, pair in found.iterrows():
        verdict = pair["question_verdict"]
        than = "to" if verdict == "equal" else "than"
        lines.append(
            f"<li><b>{escape(pair['first'])}</b> is {verdict} {than} {escape(pair['second'])}: "
            f"{pair['difference']:+.1f} points of Δm% ({pair['low']:.1f} to {pair['high']:.1f})"
        )
    left = len(asked) - len(found)
    lines.append(f"<li>{left} of {len(asked)} questions are open: the seeds are too few to say")
    ask = "Does a wrapper change its method, does a method differ from the baseline?"
    return (
        f'<div class="answer"><b>{ask}</b><ul>{"".join(lines)}</ul>'
        f'<span class="soft">{escape(said)}</span></div>'
    )


def _rows(table: Table, placed: pd.DataFrame) -> str:
    header, found = cells(table)
    header = [*header, "rank", "worst metric"]
    ends = {place["row"]: [_ranks(place), _worst(place)] for _, place in placed.iterrows()}
    rows = [
        ([*row, *ends.get(name, [DASH, DASH])], name not in ends) for name, row in found.items()
    ]
    return _html_table(header, rows, str(table.rows["task"].iloc[0]))


def _ranks(place: pd.Series[Any]) -> str:
    if pd.isna(place["rank_low"]):
        return DASH
    return f"{place['rank_low']:.0f} to {place['rank_high']:.0f}"


def _worst(place: pd.Series[Any]) -> str:
    return f"{place['worst']:.1f} % {place['worst_metric']}" if place["worst_metric"] else DASH


def _html_table(
    header: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]], name: str
) -> str:
    """A table that a script may sort; rows with a mark are the reference's."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        f"<tr{' class=reference' if marked else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row, marked in rows
    )
    return (
        f'<div class="scroll"><table class="sortable" data-name="{escape(name)}"><thead><tr>{head}'
        f"</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


# ------------------------------------------------------------------------------------ pictures
def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: Figure, label: str, caption: str, salt: str) -> str:
    """Inline, in the page's colours, the same bytes every time."""
    from matplotlib import rc_context

    file = io.StringIO()
    source = files("mtlbench.boards").joinpath("page.mplstyle")
    with as_file(source) as style, rc_context({"svg.hashsalt": salt}, fname=style):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue().replace(_INK, "currentColor")
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", drawn, count=2)
    # Ids are unique in a picture only; a page has many of them.
    drawn = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}-", drawn)
    drawn = drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _against_time(table: Table) -> Iterator[str]:
    """Delta-m against step time, with intervals that have the reference's noise."""
    rows = table.compared.dropna(subset=["delta_m", "step_ratio"])
    if rows.empty:
        return
    figure, axes = _figure(6, 4)
    methods, wrappers = (list(dict.fromkeys(rows[f"{p}_title"])) for p in ("method", "sharpness"))
    for _, row in rows.iterrows():
        found = table.against_reference(row["name"])
        low, high = found.interval()
        axes.errorbar(
            row["step_ratio"],
            found.mean,
            yerr=None if math.isnan(low) else (high - low) / 2,
            color=_COLOURS[methods.index(row["method_title"]) % len(_COLOURS)],
            marker=_MARKERS[wrappers.index(row["sharpness_title"]) % len(_MARKERS)],
            markersize=7,
            capsize=2,
            elinewidth=1,
            linestyle="",
        )
    axes.axhline(0, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}" + TIMES)
    axes.set_xlabel("step time over the baseline's")
    axes.set_ylabel("Δm%")
    _legend(axes, methods, wrappers)
    task = table.rows["task"].iloc[0]
    caption = (
        "Δm% against step time (left and down is better). Bars: 95 % intervals, the reference's "
        "own noise included; dashed: the reference."
    )
    yield _svg(figure, f"{task}: delta-m against step time", caption, f"{_salt(table)}t")


def _legend(axes: Any, methods: Sequence[str], wrappers: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], linestyle="", marker="o", color=_COLOURS[i % len(_COLOURS)], label=name)
        for i, name in enumerate(methods)
    ]
    entries += [
        Line2D([], [], linestyle="", marker=_MARKERS[i % len(_MARKERS)], color=_INK, label=name)
        for i, name in enumerate(wrappers)
    ]
    legend = axes.figure.legend(handles=entries, loc="outside right upper", frameon=False)
    for text in legend.get_texts():
        text.set_color(_INK)


def _forest(table: Table, known: pd.DataFrame) -> Iterator[str]:
    """Differences to the baseline, with intervals."""
    plain = table.compared[(table.compared["role"] == "baseline") & table.compared["plain"]]
    if len(plain) != 1:
        return
    baseline = plain["name"].iloc[0]
    met = known[(known["second"] == baseline) & known["low"].notna()]
    if met.empty:
        return
    figure, axes = _figure(6, 1 + 0.25 * len(met))
    for y, (_, pair) in enumerate(met.iloc[::-1].iterrows()):
        shown = pair["verdict"] in _SHOWN
        axes.plot([pair["low"], pair["high"]], [y, y], color=_COLOURS[0], linewidth=1.5)
        filling = _COLOURS[0] if shown else (0, 0, 0, 0)
        axes.plot(pair["difference"], y, marker="o", color=_COLOURS[0], markerfacecolor=filling)
    axes.axvspan(-1, 1, color=_COLOURS[-1], alpha=0.25, linewidth=0)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(met)), list(met["first"].iloc[::-1]))
    widest = met[["low", "high"]].abs().to_numpy().max()
    if widest > 20:
        axes.set_xscale("symlog", linthresh=5)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"points of Δm% more than {baseline}")
    task = table.rows["task"].iloc[0]
    caption = (
        f"Paired differences to {baseline} (left is better) with 95 % intervals. Grey: ±1 point. "
        "Filled: shown to be better, worse or equal, Holm's correction over all pairs of the table."
    )
    yield _svg(figure, f"{task}: differences to {baseline}", caption, f"{_salt(table)}f")


def _salt(table: Table) -> str:
    return re.sub(r"\W+", "-", table.heading)[:60]


# ------------------------------------------------------------------------------------ published
def _literature() -> Iterator[str]:
    yield '<section><h2 id="published">As published</h2>'
    yield (
        "<p>Numbers from papers: other protocols, data and networks than ours, not to be compared "
        "with the tables above. Δm% again and mean ranks are computed by this library.</p>"
    )
    for name in datasets():
        known = Literature.read(name)
        yield f"<details><summary>{escape(name)}</summary>"
        for pool, rows in known.pools.items():
            yield f'<p class="soft">{escape(pool)}</p>' if pool else ""
            yield _html_table(*known.cells(rows), f"{name}, as published")
        yield f'<p class="soft">{"<br>".join(map(escape, known.notes()))}</p></details>'
    yield "</section>"
