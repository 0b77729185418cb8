r"""Sentences with numbers, made from the tables that they are about.

A folder's ``README.md`` is its ``README.md.jinja`` with the numbers filled in, in the language of
`Jinja <https://jinja.palletsprojects.com>`_. What it may say beside the language's own::

    {{ row("qm9", "LS").delta_m|n(1) }}              of qm9_standings.csv; |n(1): one decimal
    {{ row("qm9", "LS")|pm }}                        "40.1 ± 9.0": delta-m and half its interval
    {{ metrics("celeba", "LS").mean() }}             the metrics of a row, of celeba.csv
    {{ pair("qm9", "MGDA", "LS").p_holm|n(2) }}      of qm9_pairs.csv; the pair may stand there the
                                                     other way round
    {{ pair("qm9", "MGDA", "LS")|by }}               "8.6 (1.1 to 16.1)": without the sign, which
                                                     the words carry
    {{ pairs("qm9", "* x SAMO", "*").time_ratio.max() }}   all that fit, as a pandas table
    {{ against("qm9", "LS").difference.min() }}      of all pairs with a row, it being the second
    {{ answers("qm9") }}  {{ verdicts() }}           what tests decide, written out
    {{ clear("qm9") }}                               questions whose interval leaves out zero
    {{ table("qm9_seeds") }}                         any CSV file, as a pandas table
    {{ tuned("tuning", "qm9", 3) }}                  selection scores by rho, from records
    {{ scores("tuning", "qm9").idxmax() }}           the same as numbers
    {{ claim(pair("qm9", "MGDA", "LS").is_worse, "MGDA loses to LS") }}

``claim`` writes nothing. Where its condition does not hold, the sentence that it is for has to be
written anew: the text is refused, and every such claim named.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from mtlbench.boards.build import build, histories
from mtlbench.boards.comparisons import count, turned
from mtlbench.boards.groups import tables
from mtlbench.boards.places import GROUP, ROW
from mtlbench.boards.statistics import MARGIN, VERDICTS, seeds_to_resolve
from mtlbench.errors import UsageError
from mtlbench.runs.store import Store

TEMPLATE = "README.md.jinja"
_WORDS = (
    *("row", "metrics", "pair", "pairs", "against", "clear", "answers", "verdicts", "table"),
    *("tuned", "scores", "claim"),
)


def prose(folder: Path) -> str:
    """The text that a folder's template makes of the CSV files and records in it.

    Raises:
        UsageError: the template asks for what is not there, or claims what does not hold.
    """
    from jinja2 import Environment, StrictUndefined, TemplateError

    facts = Facts(folder)
    language = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    language.filters |= {"n": _n, "pm": _pm, "by": _by, "span": _span}
    language.globals |= {name: getattr(facts, name) for name in _WORDS}
    path = folder / TEMPLATE
    try:
        text = language.from_string(path.read_text(encoding="utf-8")).render()
    except (TemplateError, LookupError, ValueError, AttributeError, TypeError) as error:
        line = getattr(error, "lineno", None)
        raise UsageError(f"{path}{f', line {line}' if line else ''}: {error}") from error
    if facts.broken:
        lines = "".join(f"\n  {sentence}" for sentence in facts.broken)
        raise UsageError(f"{path} says what the tables do not; write anew:{lines}")
    return text


class Facts:
    """What a template may ask of a folder.

    Args:
        folder: of the CSV files; a table may be in a folder of it, "ablation/qm9".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[str] = []
        """Claims that do not hold."""
        self._read = cache(self._read_csv)

    def _read_csv(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise UsageError(f"there is no {path}, of which {self.folder / TEMPLATE} tells")
        found = pd.read_csv(path, keep_default_na=False, na_values=[""])
        half = {"half": (found["high"] - found["low"]) / 2} if "high" in found else {}
        return found.assign(**half)

    def row(self, table: str, name: str) -> pd.Series[Any]:
        """A line of a table's standings; ``name`` may be a pattern that fits one."""
        found = self._read(f"{table}_standings")
        return _only(found[_fits(found["row"], name)], f"a row {name!r} in {table}")

    def metrics(self, table: str, title: str) -> pd.Series[float]:
        """The metrics of a method without a wrapper."""
        rows = self._read(table)
        spreads = [column for column in map(str, rows) if column.endswith("_std")]
        names = [spread.removesuffix("_std") for spread in spreads if "delta" not in spread]
        own = rows.loc[rows["plain"] & (rows["method_title"] == title), names]
        found: pd.Series[float] = _only(own, f"a row {title!r} in {table}").astype(float)
        return found

    def pair(self, table: str, first: str, second: str) -> pd.Series[Any]:
        """Two rows, the first against the second; with ``is_better``, ``is_worse``, ``is_equal``
        and ``is_open``, of the questions if the pair is one."""
        found = self._read(f"{table}_pairs")
        one, other = found["first"], found["second"]
        here = found[_fits(one, first) & _fits(other, second)]
        there = found[_fits(one, second) & _fits(other, first)]
        known = _only(
            here if len(here) else turned(there), f"a pair of {first!r} and {second!r} in {table}"
        )
        said = known["verdict"] if pd.isna(known["question"]) else known["question_verdict"]
        whole: pd.Series[Any] = pd.concat(
            [known, pd.Series({f"is_{v}": said == v for v in VERDICTS})]
        )
        return whole

    def against(self, table: str, name: str) -> pd.DataFrame:
        """Every other row against this one: pairs in which it is the second."""
        found = self._read(f"{table}_pairs")
        return pd.concat([found[found["second"] == name], turned(found[found["first"] == name])])

    def pairs(
        self, table: str, first: str = "*", second: str = "*", same_method: bool = False
    ) -> pd.DataFrame:
        """All pairs whose rows fit two patterns, in the order of the file.

        Args:
            table: whose.
            first: of a row's name.
            second: of the other's.
            same_method: whether only those count that differ in the wrapper alone.
        """
        found = self._read(f"{table}_pairs")
        found = found[_fits(found["first"], first) & _fits(found["second"], second)]
        if same_method:
            one, other = (found[side].str.partition(" x ")[0] for side in ("first", "second"))
            found = found[one == other]
        if found.empty:
            raise UsageError(f"no pair of {table} fits {first!r} and {second!r}")
        return found

    def answers(self, table: str) -> str:
        """The questions that tests decide, in words, and how many they do not."""
        found = self._read(f"{table}_pairs")
        asked = found[found["question"].notna()]
        shown = asked[asked["question_verdict"].isin(VERDICTS[:3])]
        said = [
            f"{pair['first']} is {verdict} {'to' if verdict == 'equal' else 'than'} "
            f"{pair['second']} ({_signed(pair)})"
            for verdict in VERDICTS[:3]
            for _, pair in shown[shown["question_verdict"] == verdict].iterrows()
        ]
        left = f"{len(asked) - len(shown)} of {len(asked)} questions are open"
        return "; ".join([*said, left])

    def verdicts(self) -> str:
        """What every table can tell, as a table."""
        lines = [
            "| table | seeds | of the questions | of the pairs | resolution | for 1 point |",
            "|---|---|---|---|---|---|",
        ]
        for path in sorted(self.folder.rglob("*_pairs.csv")):
            name = str(path.relative_to(self.folder)).removesuffix("_pairs.csv")
            pairs = self._read(f"{name}_pairs")
            asked = pairs[pairs["question"].notna()]
            seeds = "/".join(map(str, sorted(set(pairs["n_seeds"]))))
            needed = seeds_to_resolve(float(pairs["sd"].median()), MARGIN)
            lines.append(
                f"| {name} | {seeds} | {count(asked['question_verdict'])} | "
                f"{count(pairs['verdict'])} | {pairs['resolution'].median():.2g} | {needed} |"
            )
        return "\n".join(lines)

    def table(self, name: str) -> pd.DataFrame:
        """A CSV file, for what has no word of its own here."""
        return self._read(name)

    def clear(self, table: str) -> pd.DataFrame:
        """The questions whose 95 % interval leaves out zero, uncorrected for their number."""
        found = self._read(f"{table}_pairs")
        return found[found["question"].notna() & (found["low"] * found["high"] > 0)]

    def tuned(self, where: str, task: str, decimals: int = 3) -> str:
        """Best selection scores on validation of the runs that chose an option, the best bold.

        Args:
            where: folder of their records.
            task: whose.
            decimals: of a score.
        """
        scores = self.scores(where, task)
        said = [f"{name}: {_n(score, decimals)}" for name, score in scores.items()]
        best = list(scores.index).index(str(scores.idxmax()))
        return ", ".join([*said[:best], f"**{said[best]}**", *said[best + 1 :]])

    def scores(self, where: str, task: str) -> pd.Series[float]:
        """The best selection score of every row of a folder of records."""
        records = [
            record
            for record in Store(self.folder / where).found()[0].values()
            if record.identity.task == task
        ]
        if not records:
            raise UsageError(f"there is no record of {task} in {self.folder / where}")
        names = pd.concat([table.rows for table in tables(build(records)[task])])
        known = names[[*GROUP, *ROW, "name"]].merge(histories(records), on=[*GROUP, *ROW])
        return known.groupby("name", sort=False)["score"].max()

    def claim(self, holds: object, sentence: str) -> str:
        """Nothing, where a sentence may be said."""
        if not holds:
            self.broken.append(sentence)
        return ""


def _fits(names: pd.Series[str], pattern: str) -> pd.Series[bool]:
    return names.map(lambda name: fnmatchcase(name, pattern)).astype(bool)


def _only(found: pd.DataFrame, what: str) -> pd.Series[Any]:
    if len(found) != 1:
        raise UsageError(f"there is not one of {what}, but {len(found)}")
    return found.iloc[0]


def _n(number: float, decimals: int = 0) -> str:
    """With so many decimals, and no minus before a zero."""
    return f"{round(float(number), decimals) + 0.0:.{decimals}f}"


def _pm(row: pd.Series[Any], decimals: int = 1) -> str:
    """``6.0 ± 7.9``, without the sign."""
    return f"{_n(abs(row['delta_m']), decimals)} ± {_n(row['half'], decimals)}"


def _by(pair: pd.Series[Any], decimals: int = 1) -> str:
    """``4.4 (1.1 to 7.8)``, without the sign: ends that lie beyond zero are below it."""
    sign = -1 if pair["difference"] < 0 else 1
    low, high = sorted(sign * end for end in (pair["low"], pair["high"]))
    return f"{_n(abs(pair['difference']), decimals)} ({_n(low, decimals)} to {_n(high, decimals)})"


def _span(pair: pd.Series[Any], decimals: int = 1) -> str:
    """``-0.5 (-1.8 to 0.9)``."""
    ends = (_n(pair[name], decimals) for name in ("low", "high"))
    sign = "+" if round(pair["difference"], decimals) > 0 else ""
    return f"{sign}{_n(pair['difference'], decimals)} ({' to '.join(ends)})"


def _signed(pair: pd.Series[Any]) -> str:
    return f"{pair['difference']:+.1f}, {pair['low']:.1f} to {pair['high']:.1f}"
