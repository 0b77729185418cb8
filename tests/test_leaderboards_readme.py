"""The numbers in the text of leaderboards/README.md are those of its CSV files.

After a paragraph, ``<!-- numbers`` lists what it says, in the order in which it says it: a table, a
row or a pair of rows (``*`` stands for anything; several matches need ``:min`` or ``:max``), and
columns. Numbers are compared without their signs, which the words carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from mtlbench.boards.comparisons import count
from mtlbench.boards.statistics import seeds_to_resolve

BOARDS = Path(__file__).parent.parent / "leaderboards"
TEXT = (BOARDS / "README.md").read_text()
BLOCK = re.compile(r"<!-- numbers\n([^>]+)\n-->")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
VERDICTS = re.compile(r"<!-- verdicts: .* -->\n(.*)<!-- end of verdicts -->", re.DOTALL)


def read(table: str) -> pd.DataFrame:
    found = pd.read_csv(BOARDS / f"{table}.csv", keep_default_na=False, na_values=[""])
    return found.assign(half=(found["high"] - found["low"]) / 2)


def matches(names: pd.Series[str], pattern: str) -> list[bool]:
    return [fnmatchcase(name, pattern.strip()) for name in names]


def values(table: str, kind: str, rows: str, columns: str) -> Iterator[float]:
    """What the files say."""
    if kind == "means":
        yield mean_metric(table, rows)
        return
    if kind == "falls":
        yield 100 * (1 - mean_metric(table, rows) / mean_metric(table, "STL"))
        return
    found = read(f"{table}_{kind}")
    if kind == "pairs":
        first, second = rows.split("|")
        found = found[matches(found["first"], first)]
        found = found[matches(found["second"], second)]
        methods = (found[side].str.partition(" x ")[0] for side in ("first", "second"))
        if first.startswith("*"):
            found = found[next(methods) == next(methods)]
    else:
        found = found[matches(found["row"], rows)]
    for column in columns.split():
        name, _, how = column.partition(":")
        assert how or len(found) == 1, f"{rows} of {table}: {len(found)} rows"
        yield float(found[name].agg(how) if how else found[name].iloc[0])


def mean_metric(table: str, title: str) -> float:
    """Mean over all metrics of the row without a wrapper."""
    rows = pd.read_csv(BOARDS / f"{table}.csv", keep_default_na=False)
    spreads = [column for column in map(str, rows) if column.endswith("_std")]
    metrics = [spread.removesuffix("_std") for spread in spreads if "delta" not in spread]
    (row,) = rows.loc[rows["plain"] & (rows["method_title"] == title), metrics].to_numpy(float)
    return float(row.mean())


def same(text: str, value: float) -> bool:
    decimals = len(text.partition(".")[2])
    return f"{abs(value):.{decimals}f}" == text


def paragraphs() -> list[tuple[str, str]]:
    """Every paragraph that has a list of claims below it, and the list."""
    parts = BLOCK.split(TEXT)
    return [(text.rpartition("\n\n")[2], claims) for text, claims in pairwise(parts)][::2]


@pytest.mark.parametrize(("paragraph", "claims"), paragraphs())
def test_a_paragraph_says_what_the_files_say(paragraph: str, claims: str) -> None:
    said, at = NUMBER.findall(paragraph), 0
    for claim in claims.splitlines():
        table, kind, rest = claim.split(" ", 2)
        rows, _, columns = rest.partition(": ")
        found = list(values(table, kind, rows, columns))
        starts = range(at, len(said) - len(found) + 1)
        fits = [i for i in starts if all(map(same, said[i : i + len(found)], found))]
        assert fits, f"{claim}: the text has no {found} among {said[at:]}"
        at = fits[0] + len(found)


def verdicts() -> str:
    """The table of what the tables can tell."""
    lines = [
        "| table | seeds | of the questions | of the pairs | resolution | for 1 point |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(BOARDS.rglob("*_pairs.csv")):
        pairs = pd.read_csv(path)
        asked = pairs[pairs["question"].notna()]
        name = str(path.relative_to(BOARDS)).removesuffix("_pairs.csv")
        seeds = "/".join(map(str, sorted(set(pairs["n_seeds"]))))
        needed = seeds_to_resolve(float(pairs["sd"].median()))
        lines.append(
            f"| {name} | {seeds} | {count(asked['question_verdict'])} | "
            f"{count(pairs['verdict'])} | {pairs['resolution'].median():.2g} | {needed} |"
        )
    return "\n".join(lines) + "\n"


def test_the_verdicts_are_those_of_the_files() -> None:
    (found,) = VERDICTS.findall(TEXT)
    assert found == verdicts(), f"the files give\n{verdicts()}"
