"""Rows of a board against one another and against the reference, seed by seed.

Two families are corrected for, each with Holm's method. All pairs of a table together say where a
row may stand in it. The questions that a board is made for are fewer: each wrapper against the same
method without one, and each method against the baseline. That two rows are equal is tested pair by
pair, at 5 % each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.groups import Table, tables
from mtlbench.boards.places import GROUP, ROW
from mtlbench.boards.statistics import (
    MARGIN,
    VERDICTS,
    Estimate,
    holm,
    near_best,
    p_improvement,
    rank_intervals,
    seeds_to_resolve,
    verdicts,
)
from mtlbench.boards.times import time_ratio
from mtlbench.registry import reference
from mtlbench.training.history import Selection

_SIGNED = ["difference", "low", "high", "low_90", "high_90"]
_SIGNED_BACK = ["difference", "high", "low", "high_90", "low_90"]
_PAIR = ["task", "group", "first", "second", "question", "n_seeds", "seeds", "two_machines"]
_TESTS = ["p", "p_holm", "verdict", "question_p_holm", "question_verdict", "p_improvement"]
_WORTH = ["resolution", "seeds_for_a_point", "time_ratio"]
PAIR_COLUMNS = [*_PAIR, "difference", "sd", "low", "high", "low_90", "high_90", *_TESTS, *_WORTH]
_STANDING = ["task", "group", "row", "n_seeds", "delta_m", "sd", "low", "high"]
_PLACE = ["rank_low", "rank_high", "better_than", "worse_than"]
SELECTIONS: tuple[Selection, Selection, Literal["last"]] = ("selected", "mean_of_last", "last")
"""What of a run may be taken. Which of the first two counts is the protocol's choice."""
_SELECTION = ["headline", "last_n", *(f"{c}_{s}" for s in SELECTIONS for c in ("delta_m", "sd"))]
STANDING_COLUMNS = [*_STANDING, *_PLACE, "worst", "worst_metric", *_SELECTION]


def pairs(board: Board) -> pd.DataFrame:
    """All pairs of rows, the reference aside: one row a pair, a family a group."""
    found = [_pairs(table) for table in tables(board)]
    return pd.concat([f.assign(task=board.task) for f in found])[PAIR_COLUMNS]


def _pairs(table: Table) -> pd.DataFrame:
    rows = [row for _, row in table.compared.iterrows()]
    wide = {name: table.wide(name) for name in ("delta_m", "device", "machine", "step_ratio")}
    both = [(later, earlier) for earlier, later in combinations(rows, 2)]
    found = pd.DataFrame([_pair(wide, *pair) for pair in both], columns=PAIR_COLUMNS)
    found["group"] = table.heading
    estimates = [
        Estimate(*numbers)
        for numbers in found[["n_seeds", "difference", "sd"]].itertuples(index=False, name=None)
    ]
    found["p_holm"] = holm(found["p"].to_list())
    found["verdict"] = verdicts(estimates)
    asked = found.index[found["question"] != ""]
    adjusted = holm(found.loc[asked, "p"].to_list())
    answers = verdicts([estimates[i] for i in asked])
    found["question_p_holm"] = pd.Series(adjusted, asked, dtype=float)
    found["question_verdict"] = pd.Series(answers, asked, dtype=str)
    return found


def _pair(
    wide: Mapping[str, pd.DataFrame], first: pd.Series[Any], second: pd.Series[Any]
) -> dict[str, Any]:
    """The numbers of one pair, on the seeds on which both have a delta-m."""
    names = first["name"], second["name"]
    delta, device, machine, time = (
        [wide[column][name].to_numpy() for name in names]
        for column in ("delta_m", "device", "machine", "step_ratio")
    )
    differences = (delta[0] - delta[1]).astype(float)
    common = ~np.isnan(differences)
    found = Estimate.of(differences)
    low, high = found.interval()
    low_90, high_90 = found.interval(0.9)
    return {
        "first": names[0],
        "second": names[1],
        "question": _question(first, second),
        "n_seeds": found.n,
        "seeds": " ".join(map(str, wide["delta_m"].index[common])),
        "two_machines": int((device[0] != device[1])[common].sum()),
        "difference": found.mean,
        "sd": found.sd,
        "low": low,
        "high": high,
        "low_90": low_90,
        "high_90": high_90,
        "p": found.p,
        "p_improvement": p_improvement(differences),
        "resolution": found.resolution,
        "seeds_for_a_point": seeds_to_resolve(found.sd, MARGIN),
        "time_ratio": time_ratio([t[common] for t in time], [m[common] for m in machine]),
    }


def turned(pairs: pd.DataFrame) -> pd.DataFrame:
    """The same pairs, the second row against the first."""
    found, other = pairs.copy(), {"better": "worse", "worse": "better"}
    found[["first", "second"]] = pairs[["second", "first"]].to_numpy()
    found[_SIGNED] = -pairs[_SIGNED_BACK].to_numpy()
    found["p_improvement"] = 1 - pairs["p_improvement"]
    found["time_ratio"] = 1 / pairs["time_ratio"]
    for name in ("verdict", "question_verdict"):
        found[name] = pairs[name].replace(other)
    return found


def _question(first: pd.Series[Any], second: pd.Series[Any]) -> str:
    """What is asked by a pair: what a wrapper does, what a method does, or nothing."""
    same_method = list(first[ROW[:2]]) == list(second[ROW[:2]])
    if second["plain"] and same_method:
        return "wrapper"
    baseline = second["plain"] and second["role"] == "baseline"
    return "method" if baseline and first["plain"] else ""


def standings(board: Board, everything: pd.DataFrame) -> pd.DataFrame:
    """One row a row of the board: delta-m with the reference's own noise, the ranks that all pairs
    leave it, and the metric that lost most.

    Args:
        board: whose rows they are.
        everything: its :func:`pairs`.
    """
    found = []
    for table in tables(board):
        mine = everything[everything["group"] == table.heading]
        names = list(table.compared["name"])
        beaten = [_ordered(pair) for _, pair in mine.iterrows() if pair["verdict"] in VERDICTS[:2]]
        ranks = rank_intervals(names, beaten)
        for name in names:
            estimate, (worst_metric, worst) = table.against_reference(name), table.worst(name)
            low, high = estimate.interval()
            rank_low, rank_high = ranks[name] if table.has_reference else (None, None)
            entry = {"task": board.task, "group": table.heading, "row": name}
            entry |= {"n_seeds": estimate.n, "delta_m": estimate.mean, "sd": estimate.sd}
            entry |= {"low": low, "high": high, "rank_low": rank_low, "rank_high": rank_high}
            entry["better_than"] = sum(winner == name for winner, _ in beaten)
            entry["worse_than"] = sum(loser == name for _, loser in beaten)
            entry |= {"worst": worst, "worst_metric": worst_metric}
            found.append(entry | _selection(table, name, estimate))
    return pd.DataFrame(found, columns=STANDING_COLUMNS)


def _selection(table: Table, name: str, counts: Estimate) -> dict[str, Any]:
    """Delta-m by what of a run is taken, as far as records have it; which of them counts is the
    protocol's choice."""
    headline, beside = SELECTIONS[:2] if not table.averages_last else SELECTIONS[1::-1]
    found = {
        headline: counts,
        beside: table.against_reference(name, at="_beside"),
        SELECTIONS[2]: table.against_reference(name, at="_last"),
    }
    entry = {"headline": headline, "last_n": table.of(name)["last_n"].max()}
    return entry | {
        f"{column}_{selection}": value
        for selection, estimate in found.items()
        for column, value in (("delta_m", estimate.mean), ("sd", estimate.sd))
    }


def _ordered(pair: pd.Series[Any]) -> tuple[str, str]:
    """The better one first."""
    names = (pair["first"], pair["second"])
    return names if pair["verdict"] == VERDICTS[0] else names[::-1]


def across(boards: Iterable[Board]) -> pd.Series[float]:
    """How often a row is within a point of the best, over the first group with a reference of every
    board, which are weighted equally: by row, those that all of them have, compared among
    themselves.

    Rows are told apart by their titles, as options (a radius) are a benchmark's own; where a group
    has several of one title, by their names.

    Returns:
        Empty for less than two boards.
    """
    groups = [next((t for t in tables(board) if t.has_reference), None) for board in boards]
    found = [table for table in groups if table is not None]
    if len(found) < 2:
        return pd.Series(dtype=float)
    return near_best(pd.concat([_deltas(table) for table in found]))


def _deltas(table: Table) -> pd.DataFrame:
    """Delta-m of every run, by the titles of its row."""
    rows = table.compared.set_index("name")
    wrapped = rows["method_title"] + " x " + rows["sharpness_title"]
    titles = wrapped.where(~rows["plain"].astype(bool), rows["method_title"])
    names = titles.where(~titles.duplicated(keep=False), titles.index.to_series())
    runs = table.runs[table.runs["name"].isin(rows.index)]
    return pd.DataFrame(
        {
            "benchmark": table.heading,
            "seed": runs["seed"],
            "row": runs["name"].map(names),
            "delta_m": runs["delta_m"],
        }
    )


def count(found: pd.Series[str]) -> str:
    """Verdicts in words: ``3 better, 0 worse, 1 equal, 116 open``."""
    counts = found.value_counts()
    return ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICTS)


def summary(board: Board, everything: pd.DataFrame) -> list[str]:
    """What a table of the board can tell, in a few sentences a group."""
    others = _apart(board)
    return [
        _summary(table, everything[everything["group"] == table.heading]) + others
        for table in tables(board)
    ]


def _apart(board: Board) -> str:
    """What keeps the rows of a board from being one table."""
    groups = board.rows[GROUP].drop_duplicates()
    differing = {name: list(map(str, groups[name].unique())) for name in GROUP}
    said = [f"{name} ({', '.join(v)})" for name, v in differing.items() if len(v) > 1]
    if not said:
        return ""
    return (
        f" Rows of {board.task} are in {len(groups)} tables, as they differ in {', '.join(said)}: "
        "none is compared with one of another table. Run rows again where they should not differ."
    )


def _summary(table: Table, mine: pd.DataFrame) -> str:
    usable = mine[mine["sd"].notna()]
    if not table.has_reference:
        return (
            "Nothing is compared: there is no Δm% without a complete reference row; "
            f"run --method {reference()} with the seeds of the others."
        )
    if usable.empty:
        return (
            "Nothing is compared: that takes two rows with two seeds in common; run more (--seed)."
        )
    asked = usable[usable["question"] != ""]
    seeds = _span(usable["n_seeds"].to_list())
    needed = seeds_to_resolve(float(usable["sd"].median()), MARGIN)
    machines = sorted(set(table.runs["device"]))
    seen = float(usable["resolution"].median())
    sentences = [
        f"Of {len(usable)} pairs, paired by seed ({seeds} seeds), {count(usable['verdict'])} "
        f"(Holm over all; equal: the 90 % interval inside ±{MARGIN:g} point).",
        f"Of the {len(asked)} that ask what a wrapper or a method does, "
        f"{count(asked['question_verdict'])}.",
        f"Four times in five, the median pair would show a difference of {seen:.2g} points of Δm%; "
        f"to show one of {MARGIN:g} takes it {needed:,} seeds.",
    ]
    return " ".join([*sentences, _machines(machines, usable["two_machines"])])


def _machines(names: Sequence[str], mixed: pd.Series[int]) -> str:
    """Which ones a table is from, and how much of it compares two of them."""
    if len(names) == 1:
        return f"All on machines of one kind: {names[0]}."
    return (
        f"Machines: {'; '.join(names)}. {(mixed > 0).sum()} of {len(mixed)} pairs compare runs of "
        f"one seed that are from two of them, {mixed.sum()} pairs of runs in all: what machines "
        "round otherwise is a part of these differences."
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
