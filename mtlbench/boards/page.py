"""Boards as one static page: what they show in plain words first, then tables and pictures.

One file, which asks no network for anything. Without scripts it is read as it is; with them its
tables can be sorted and filtered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import pandas as pd

from mtlbench.boards.build import Board, histories
from mtlbench.boards.comparisons import SELECTIONS, across, pairs, standings, summary
from mtlbench.boards.figures import SHOWN, figures
from mtlbench.boards.formats import DASH, cells
from mtlbench.boards.groups import Table, tables
from mtlbench.boards.published import Literature, datasets
from mtlbench.boards.statistics import MARGIN, Estimate
from mtlbench.runs.record import RunRecord
from mtlbench.svg import made_by


def page(boards: Mapping[str, Board], records: Iterable[RunRecord] = (), why: str = "") -> str:
    """The page as HTML.

    Args:
        boards: by task.
        records: that they are made of, for learning curves; none are drawn without.
        why: a section of :func:`~mtlbench.boards.mechanism.section`, if there is a study.
    """
    curves = histories(records)
    parts = [part for board in boards.values() for part in _sections(board, curves)]
    links = [f'<a href="#{escape(task)}">{escape(task)}</a>' for task in boards]
    together = _across(boards)
    links += [ACROSS_LINK] * bool(together) + [WHY_LINK] * bool(why) + [PUBLISHED_LINK]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" content="mtlbench, {made_by()}">',
            '<link rel="icon" href="data:,">',
            f"<title>mtlbench: leaderboards</title>\n<style>\n{_asset('page.css')}</style>",
            "</head>\n<body>",
            '<button id="theme" type="button" hidden>light / dark</button>',
            "<h1>mtlbench: leaderboards</h1>",
            "<p>Δm% is the mean change for the worse against networks of one task each; less is "
            "better. Better and worse are said where a test shows them, equal likewise; the rest "
            "is open.</p>",
            f"<nav>{' '.join(links)}</nav>",
            "<noscript><p>Without scripts the tables are complete, but cannot be sorted.</p>"
            "</noscript>",
            *parts,
            together,
            *([why] if why else []),
            *_literature(),
            f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


ACROSS_LINK = '<a href="#across">across benchmarks</a>'
WHY_LINK = '<a href="#why">why</a>'
PUBLISHED_LINK = '<a href="#published">as published</a>'


def _asset(name: str) -> str:
    return files("mtlbench.boards").joinpath(name).read_text(encoding="utf-8")


def _sections(board: Board, curves: pd.DataFrame) -> Iterator[str]:
    known = pairs(board)
    placed = standings(board, known)
    for place, (table, said) in enumerate(zip(tables(board), summary(board, known), strict=True)):
        mine = known[known["group"] == table.heading]
        anchor = board.task if place == 0 else f"{board.task}-{place + 1}"
        yield f'<section><h2 id="{escape(anchor)}">{escape(board.task)}</h2>'
        yield f'<p class="soft">{escape(table.heading)}</p>'
        yield _answer(mine, said)
        ranked = placed[placed["group"] == table.heading]
        yield _rows(table, ranked)
        yield _selections(ranked, board.task)
        yield _commands(table)
        yield f'<div class="figures">{"".join(figures(table, mine, curves))}</div></section>'


def _answer(known: pd.DataFrame, said: str) -> str:
    """The questions that are decided, and how many are not."""
    asked = known[known["question"] != ""]
    found = asked[asked["question_verdict"].isin(SHOWN)]
    lines = []
    for _, pair in found.iterrows():
        verdict, difference = pair["question_verdict"], round(pair["difference"], 1) + 0.0
        than = "to" if verdict == "equal" else "than"
        lines.append(
            f"<li><b>{escape(pair['first'])}</b> is {verdict} {than} {escape(pair['second'])}: "
            f"{difference:+.1f} points of Δm% ({pair['low']:.1f} to {pair['high']:.1f})"
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


def _selections(placed: pd.DataFrame, task: str) -> str:
    """Delta-m by what of a run is taken, side by side."""
    known = placed[[f"delta_m_{selection}" for selection in SELECTIONS]].notna()
    if known.any().sum() < 2:
        return ""
    n = placed["last_n"].max()
    last = "the last epochs" if pd.isna(n) else f"the last {n:.0f}"
    titles = ["at the selected epoch", f"mean of {last}", "after the last epoch"]
    counts = SELECTIONS.index(placed["headline"].iloc[0])
    titles[counts] += " (counts)"
    rows = []
    for _, place in placed.iterrows():
        numbers = [(place[f"delta_m_{s}"], place[f"sd_{s}"], place["n_seeds"]) for s in SELECTIONS]
        rows.append(([place["row"], *(_with_interval(*n) for n in numbers)], False))
    return (
        "<details><summary>Δm% by what of a run is taken</summary><p class=soft>Which one counts "
        "is the protocol's choice, made before any result.</p>"
        f"{_html_table(['method', *titles], rows, f'{task}, by what of a run is taken')}</details>"
    )


def _with_interval(mean: float, sd: float, n: int) -> str:
    if math.isnan(mean):
        return DASH
    low, high = Estimate(n, mean, sd).interval()
    return f"{mean:.2f}" + (f" ± {(high - low) / 2:.2f}" if n > 1 else "")


def _across(boards: Mapping[str, Board]) -> str:
    shares = across(boards.values())
    if shares.empty:
        return ""
    rows = [([str(name), f"{100 * share:.0f} %"], False) for name, share in shares.items()]
    return (
        '<section><h2 id="across">Across benchmarks</h2><p>How often a row is within '
        f"{MARGIN:g} point of the best one, over the seeds of each benchmark, all benchmarks "
        "weighted equally; of the rows that all of them have. Δm% itself is never averaged over "
        "benchmarks: a point is not the same thing on two.</p>"
        f"{_html_table(['method', 'near the best ↑'], rows, 'all benchmarks')}</section>"
    )


def _commands(table: Table) -> str:
    """What makes each row again, its seeds together."""
    said = []
    for name in table.rows["name"]:
        runs = table.of(name)
        for _, own in runs.groupby([runs["command"].map(_seedless), "commit"]):
            line, commit = _seedless(own["command"].iloc[0]), own["commit"].iloc[0]
            seeds = " ".join(map(str, own.index))
            code = escape(line.replace(_SEEDS, f"--seed {seeds}"))
            where = f' <span class="soft">at {escape(commit[:8])}</span>' if commit else ""
            said.append(f"<dt>{escape(name)}{where}</dt><dd><code>{code}</code></dd>")
    if not said:
        return ""
    return (
        f"<details><summary>The command behind each row</summary><dl>{''.join(said)}</dl></details>"
    )


_SEEDS = "--seed *"


def _seedless(command: str) -> str:
    return re.sub(r"--seed \d+", _SEEDS, command)


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
