"""Two rows in plain words: what was measured, on which seeds, and what it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtlbench.boards.build import Board
from mtlbench.boards.comparisons import pairs, turned
from mtlbench.boards.groups import Table, tables
from mtlbench.boards.notes import row_name
from mtlbench.boards.statistics import (
    ENOUGH_TO_RESAMPLE,
    LEVEL,
    MARGIN,
    Estimate,
    against_reference,
    bootstrap,
    near_best,
    p_improvement,
    seeds_to_resolve,
    verdict,
)
from mtlbench.boards.times import time_ratio
from mtlbench.errors import UsageError
from mtlbench.registry import Spec


def compare(boards: Mapping[str, Board], first: str, second: str) -> list[str]:
    """What is known of two rows, a paragraph a group that has both.

    Args:
        boards: by task.
        first: a row, ``method`` or ``method+wrapper``, both with the options that tell them apart.
        second: another one.

    Raises:
        UsageError: no group has both rows, a word fits several rows, or no seed is in both.
    """
    everything = {(task, t.heading): t for task, b in boards.items() for t in tables(b)}
    found = {
        key: (a, b)
        for key, table in everything.items()
        if (a := _find(table, first)) and (b := _find(table, second))
    }
    if not found:
        raise UsageError(_why_not(list(everything.values()), first, second))
    texts = []
    for (task, heading), names in found.items():
        if names[0] == names[1]:
            raise UsageError(f"{first!r} and {second!r} are the same row, {names[0]}")
        known = pairs(boards[task])
        texts.append(_report(everything[task, heading], *names, known[known["group"] == heading]))
    return [*texts, *_across([(everything[key], names) for key, names in found.items()])]


# ------------------------------------------------------------------------------------ rows by name
def words(table: Table) -> dict[str, str]:
    """How each row of a table is asked for, and its name."""
    rows = table.rows
    return {_word(row, rows): str(row["name"]) for _, row in rows.iterrows()}


def _word(row: pd.Series[Any], rows: pd.DataFrame) -> str:
    def part(which: Literal["method", "sharpness"]) -> str:
        own = row_name(row, rows, which).removeprefix(row[f"{which}_title"]).strip()
        return f"{row[which]}:{own}" if own else str(row[which])

    method = part("method")
    return method if row["plain"] else f"{method}+{part('sharpness')}"


def _find(table: Table, text: str) -> str:
    """The name of the row that ``text`` asks for; empty if there is none."""
    exactly = words(table).get(text)
    if exactly is not None:
        return exactly
    fits = [str(row["name"]) for _, row in table.rows.iterrows() if _fits(row, text)]
    if len(fits) > 1:
        known = [word for word, name in words(table).items() if name in fits]
        raise UsageError(f"{text!r} fits {len(fits)} rows, say which: {'; '.join(known)}")
    return fits[0] if fits else ""


def _fits(row: pd.Series[Any], text: str) -> bool:
    method, plus, wrapper = text.partition("+")
    if not _is(Spec.parse(method), row["method"], row["method_options"]):
        return False
    if not plus:
        return bool(row["plain"])
    return _is(Spec.parse(wrapper), row["sharpness"], row["sharpness_options"])


def _is(spec: Spec, name: str, options: str) -> bool:
    has = dict(option.partition("=")[::2] for option in options.split(","))
    return spec.name == name and all(_same(has.get(k), v) for k, v in spec.options.items())


def _same(has: str | None, wanted: str) -> bool:
    try:
        return has is not None and float(has) == float(wanted)
    except ValueError:
        return has == wanted


def _why_not(everything: Sequence[Table], first: str, second: str) -> str:
    where = {text: [t.heading for t in everything if _find(t, text)] for text in (first, second)}
    known = sorted({word for table in everything for word in words(table)})
    for text, headings in where.items():
        if not headings:
            near = get_close_matches(text, known, 3, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            return f"there is no row {text!r}{hint}; rows: {'; '.join(known)}"
    apart = "; ".join(f"{text!r} under {', '.join(found)}" for text, found in where.items())
    return f"rows of different protocols are not compared: {apart}"


# ------------------------------------------------------------------------------------ words
def _report(table: Table, first: str, second: str, known: pd.DataFrame) -> str:
    if not table.has_reference:
        raise UsageError(
            f"{table.heading}: there is no Δm% without a reference row that has every seed; run it"
        )
    for name in {first, second} - set(table.compared["name"]):
        raise UsageError(
            f"{name} is the reference: Δm% is already measured against it; compare two other rows"
        )
    mine, other = (table.of(name)["delta_m"].dropna() for name in (first, second))
    differences = (mine - other).dropna()
    if differences.empty:
        seeds = " and ".join(" ".join(map(str, table.of(n).index)) for n in (first, second))
        raise UsageError(f"{first} and {second} have no seed in common: {seeds}")
    found = Estimate.of(differences)
    lines = [
        table.heading,
        f"{first} against {second}, on the {_seeds(differences.index)} that both have. Δm% is the "
        "mean change for the worse against the reference.",
        *_alone(first, mine, second, other),
        "",
        _finding(found, first, second),
    ]
    if found.n > 1:
        better = found.n * p_improvement(differences)
        lines += [
            f"On {better:g} of {found.n} seeds {first} is the better one.",
            *_resampled(table, first, second, list(differences.index)),
            f"Resolution: these seeds show a difference of {found.resolution:.2g} points four "
            f"times in five; one of {MARGIN:g} takes {seeds_to_resolve(found.sd, MARGIN):,} seeds.",
            _in_the_table(known, first, second),
        ]
    lines += [f"Against the reference: {_against(table, name)}." for name in (first, second)]
    return "\n".join([*lines, *_cost(table, first, second, list(differences.index))])


def _seeds(seeds: Any) -> str:
    listed = " ".join(map(str, seeds))
    return f"one seed, {listed}," if len(seeds) == 1 else f"{len(seeds)} seeds, {listed},"


def _alone(
    first: str, mine: pd.Series[float], second: str, other: pd.Series[float]
) -> Iterator[str]:
    """Seeds that have no counterpart."""
    for name, has, lacks in ((first, mine, other), (second, other, mine)):
        left_out = has.index.difference(lacks.index)
        if len(left_out):
            yield f"Left out, as the other lacks them: {_seeds(left_out).rstrip(',')} of {name}."


def _finding(found: Estimate, first: str, second: str) -> str:
    """The verdict with its numbers."""
    if found.n < 2:
        return (
            f"OPEN. The difference is {found.mean:+.2f} points, and one seed gives no interval: "
            "nothing is shown."
        )
    percent = f"{100 * LEVEL:g} %"
    interval, narrow = (_interval(*found.interval(level)) for level in (LEVEL, 0.9))
    said = verdict(found, found.p)
    if said == "equal":
        return (
            f"EQUAL within {MARGIN:g} point: the difference is {found.mean:+.2f}, its 90 % "
            f"interval {narrow} ({percent}: {interval})."
        )
    if said == "open":
        return (
            f"OPEN. The difference is {found.mean:+.2f} points ({percent} interval {interval}; "
            f"p = {found.p:.2g}): it may be none. Nor are the two shown to be equal, for which "
            f"the 90 % interval, {narrow}, has to lie within ±{MARGIN:g}."
        )
    return (
        f"{said.upper()}. {first} is {said} than {second} by {abs(found.mean):.2f} points of Δm% "
        f"({percent} interval of the difference {interval}; p = {found.p:.2g})."
    )


def _interval(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _resampled(table: Table, first: str, second: str, seeds: Sequence[int]) -> Iterator[str]:
    """An interval without the normal distribution, where there are seeds enough for one."""
    seeds = table.with_reference(seeds) if table.has_reference else []
    if len(seeds) < ENOUGH_TO_RESAMPLE:
        return

    both = [table.scores(name, seeds) for name in (first, second)]

    def again(drawn: NDArray[np.int64]) -> float:
        a, b = (against_reference(v[drawn], base[drawn], table.signs).mean for v, base in both)
        return a - b

    ends = bootstrap(again, len(seeds), np.random.default_rng(0))
    yield f"Seeds resampled together with the reference's give {_interval(*ends)}."


def _in_the_table(known: pd.DataFrame, first: str, second: str) -> str:
    """The same pair as one of all."""
    either = pd.concat([known, turned(known)])
    pair = either[(either["first"] == first) & (either["second"] == second)].iloc[0]
    tested = int(known["p"].notna().sum())
    return (
        f"That is one comparison by itself. As one of all {tested} pairs of its table it is "
        f"{pair['verdict']} (Holm's p = {pair['p_holm']:.2g})."
    )


def _against(table: Table, name: str) -> str:
    estimate, (metric, change) = table.against_reference(name), table.worst(name)
    (status,) = table.rows.loc[table.rows["name"] == name, "status"]
    if not metric:
        return f"{name} has no Δm%, {status}"
    interval = f" ({_interval(*estimate.interval())})" if estimate.n > 1 else ""
    loss = f"{abs(change):.1f} % {'worse' if change > 0 else 'better'}"
    lacking = "" if status == "ok" else f" ({status})"
    return f"{name} {estimate.mean:+.2f}{interval}, its worst metric {metric}, {loss}{lacking}"


def _cost(table: Table, first: str, second: str, seeds: Sequence[int]) -> Iterator[str]:
    mine, other = (table.of(name).loc[list(seeds)] for name in (first, second))
    columns = ("step_ratio", "machine")
    ratio = time_ratio(*([mine[each].to_numpy(), other[each].to_numpy()] for each in columns))
    if not math.isnan(ratio):
        yield f"A step of {first} takes {ratio:.2f} times as long as one of {second}."
    mixed = int((mine["device"] != other["device"]).sum())
    if mixed:
        yield f"Beware: on {mixed} of these seeds the two ran on machines of two kinds."


def _across(found: Sequence[tuple[Table, tuple[str, str]]]) -> Iterator[str]:
    """How often each of the two is near the better one, over several benchmarks."""
    if len({table.rows["task"].iloc[0] for table, _ in found}) < 2:
        return
    runs = [
        {"benchmark": table.heading, "seed": seed, "row": place, "delta_m": delta}
        for table, names in found
        for place, name in enumerate(names)
        for seed, delta in table.of(name)["delta_m"].items()
    ]
    wide = pd.DataFrame(runs)
    both = wide.groupby(["benchmark", "seed"])["delta_m"].transform("count") == 2
    shares = near_best(wide[both])
    yield (
        f"On these {len(found)} together, weighted equally: the first is within {MARGIN:g} point "
        f"of the better one on {shares[0]:.0%} of the seeds, the second on {shares[1]:.0%}. Δm% "
        "itself is not averaged over benchmarks."
    )
