"""Boards as text to paste: CSV, Markdown, LaTeX, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.comparisons import pairs, standings, summary
from mtlbench.boards.groups import Table, tables
from mtlbench.boards.symbols import TIMES
from mtlbench.files import to_csv

DASH = "--"
_MOST_METRICS = 12
"""More columns than this fit no page; the CSV files have them."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    TIMES: r"$\times$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
}


def _csv(boards: Mapping[str, Board]) -> str:
    return "\n".join(to_csv(board.rows) for board in boards.values())


def _json(boards: Mapping[str, Board]) -> str:
    """Rows, standings and pairs by task; null where a table has an empty cell."""
    made = {}
    for task, board in boards.items():
        found = pairs(board)
        made[task] = {
            "metrics": [metric.model_dump() for metric in board.metrics.values()],
            "rows": _records(board.rows),
            "standings": _records(standings(board, found)),
            "pairs": _records(found),
        }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _records(frame: pd.DataFrame) -> Any:
    return json.loads(frame.to_json(orient="records", double_precision=9))


def _markdown(boards: Mapping[str, Board]) -> str:
    return "\n".join(
        _markdown_table(table, marked, said) for table, marked, said in _tables(boards)
    )


def _markdown_table(table: Table, marked: set[str], said: str) -> str:
    header, found = cells(table)
    lines = [f"**{table.heading}**", "", _bar(header), "|" + "---|" * len(header)]
    for name, row in found.items():
        shown = [f"**{cell}**" for cell in row] if name in marked else row
        lines.append(_bar([cell.replace("|", r"\|") for cell in shown]))
    return "\n".join([*lines, "", f"{_legend(marked)} {said}", ""])


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(boards: Mapping[str, Board]) -> str:
    """Tables as papers print them, for the packages booktabs and graphicx."""
    return "\n".join(_latex_table(table, marked, said) for table, marked, said in _tables(boards))


def _latex_table(table: Table, marked: set[str], said: str) -> str:
    header, found = cells(table)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(table.heading)}.}}"]
    lines += [r"\resizebox{\linewidth}{!}{%", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"]
    lines += [r"\toprule", _line([_escaped(cell) for cell in header]), r"\midrule"]
    compared = set(table.compared["name"])
    for name, row in found.items():
        texts = [_escaped(cell) for cell in row]
        lines.append(_line([rf"\textbf{{{t}}}" for t in texts] if name in marked else texts))
        if name not in compared:
            lines.append(r"\midrule")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    return "\n".join([*lines, rf"% {_legend(marked)} {said}", r"\end{table}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    arrows = text.replace("↑", "\0u").replace("↓", "\0d")
    escaped = "".join(_LATEX.get(sign, sign) for sign in arrows)
    return escaped.replace("\0u", r"$\uparrow$").replace("\0d", r"$\downarrow$")


def _tables(boards: Mapping[str, Board]) -> list[tuple[Table, set[str], str]]:
    """All groups, the rows that are marked in them, and what they show."""
    found = []
    for board in boards.values():
        known = pairs(board)
        for table, said in zip(tables(board), summary(board, known), strict=True):
            mine = known[known["group"] == table.heading]
            found.append((table, best(table, mine), said))
    return found


def best(table: Table, known: pd.DataFrame) -> set[str]:
    """The rows that tests say are best: the lowest delta-m and those equal to it, if every other
    row is shown to be worse; none otherwise.

    Args:
        table: a group.
        known: its pairs.
    """
    deltas = {name: table.against_reference(name).mean for name in table.compared["name"]}
    whole = {name: delta for name, delta in deltas.items() if not math.isnan(delta)}
    if len(whole) < 2:
        return set()
    lowest = min(whole, key=lambda name: whole[name])
    met = known[(known["first"] == lowest) | (known["second"] == lowest)]
    decided = all(said != "open" for said in met["verdict"])
    equal = met.loc[met["verdict"] == "equal", ["first", "second"]]
    return {lowest, *equal["first"], *equal["second"]} if decided else set()


def _legend(marked: set[str]) -> str:
    if marked:
        return "Bold: shown to be better than every other row, or equal to such a row."
    return "No row is marked: none is shown to be better than, or equal to, every other."


def cells(table: Table) -> tuple[list[str], dict[str, list[str]]]:
    """A header, and by row: name, metrics, delta-m with its interval, ranks, step time."""
    metrics = list(table.metrics.values()) if len(table.metrics) <= _MOST_METRICS else []
    header = ["method", *(f"{m.name} {'↑' if m.higher_is_better else '↓'}" for m in metrics)]
    header += ["Δm% ↓", "mean rank ↓", f"step {TIMES} ↓", "seeds"]
    mixed = bool((table.rows["origin"] != "own").any())
    header += ["origin"] if mixed else []
    rows = table.rows.set_index("name")
    columns = {m.name: _form(rows[m.name]) for m in metrics}
    found = {}
    for name, row in rows.iterrows():
        values = [_number(row[metric], form) for metric, form in columns.items()]
        found[str(name)] = [
            str(name),
            *values,
            _delta(table, str(name)),
            _number(row["mean_rank"], "{:.2f}".format),
            _number(row["step_ratio"], "{:.2f}".format),
            str(row["n_seeds"]),
            *([row["origin"]] if mixed else []),
        ]
    return header, found


def _delta(table: Table, name: str) -> str:
    found = table.against_reference(name)
    if name not in set(table.compared["name"]) or math.isnan(found.mean):
        return DASH
    low, high = found.interval()
    return f"{found.mean:.2f}" + (f" ± {(high - low) / 2:.2f}" if found.n > 1 else "")


def _form(column: pd.Series[float]) -> Callable[[float], str]:
    """Four digits for the column's largest number, and as many decimals for the others."""
    largest = column.abs().max()
    decimals = max(0, 3 - math.floor(math.log10(largest))) if largest > 0 else 0
    return f"{{:.{decimals}f}}".format


def _number(value: float, form: Callable[[float], str]) -> str:
    return DASH if math.isnan(value) else form(value)


FORMATS: dict[str, Callable[[Mapping[str, Board]], str]] = {
    "csv": _csv,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
}
"""Name to what makes the text of boards by task."""
