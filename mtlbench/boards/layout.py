"""A table in as many columns as a terminal has: whole columns go before one is cropped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mtlbench.boards.symbols import spelt

SHORT = 14
"""Names are not broken into lines that are shorter than this."""


@dataclass(frozen=True)
class Column:
    """A column of text.

    Args:
        header: in one line or several.
        cells: from the top.
        rank: the columns of the highest rank go first where there is little room; those of rank 0
            stay.
        name: whether it names the row, and its cells may be broken after spaces and commas.
    """

    header: str
    cells: Sequence[str]
    rank: int = 0
    name: bool = False

    @property
    def title(self) -> str:
        """The header in one line."""
        return " ".join(self.header.replace("/\n", "/").split())


@dataclass(frozen=True)
class Sheet:
    """A heading, columns and notes, laid out for the terminal that they are printed on.

    Args:
        heading: above the table.
        columns: all that may be shown.
        styles: one a row.
        rules: the rows that a line follows.
        notes: below the table.
    """

    heading: str
    columns: Sequence[Column]
    styles: Sequence[str]
    rules: Sequence[bool]
    notes: Sequence[str]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterable[RenderableType]:
        sheet = self._spelt(options.encoding)
        columns = sheet._that_fit(console, options)
        yield Text(sheet.heading, "bold")
        if columns:
            yield sheet._table(columns)
        else:
            yield from sheet._blocks()
        dropped = [c.title for c in sheet.columns if c.title not in {k.title for k in columns}]
        if columns and dropped:
            yield Text(
                f"Not shown in {options.max_width} columns: {', '.join(dropped)}. The CSV file, or "
                "a wider terminal, has them.",
                "dim italic",
            )
        for note in sheet.notes:
            yield Text(note, "dim italic")
        yield Text()

    def _spelt(self, encoding: str) -> Sheet:
        """With nothing but what the terminal can write."""

        def spell(texts: Iterable[str]) -> list[str]:
            return [spelt(text, encoding) for text in texts]

        columns = [
            replace(c, header=spelt(c.header, encoding), cells=spell(c.cells)) for c in self.columns
        ]
        (heading,) = spell([self.heading])
        return replace(self, heading=heading, columns=columns, notes=spell(self.notes))

    def _that_fit(self, console: Console, options: ConsoleOptions) -> list[Column]:
        """The columns that there is room for; none if not even those of rank 0 have it."""
        kept = list(self.columns)
        if self._fits(kept, console, options):
            return kept
        kept = [replace(c, cells=_broken(c.cells)) if c.name else c for c in kept]
        while not self._fits(kept, console, options):
            last = max(kept, key=lambda column: column.rank)
            if last.rank == 0:
                return []
            kept.remove(last)
        return kept

    def _fits(self, columns: Sequence[Column], console: Console, options: ConsoleOptions) -> bool:
        wide = options.update(width=10_000)
        needed = Measurement.get(console, wide, self._table(columns)).maximum
        return needed <= options.max_width

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in columns:
            side: Literal["left", "right"] = "left" if column.name else "right"
            table.add_column(Text(column.header), justify=side, no_wrap=True)
        rows = zip(*(column.cells for column in columns), strict=True)
        for cells, style, rule in zip(rows, self.styles, self.rules, strict=True):
            table.add_row(*map(Text, cells), style=style, end_section=rule)
        return table

    def _blocks(self) -> Iterable[RenderableType]:
        """A block of lines a row, for terminals that are too narrow for a table."""
        names = [c for c in self.columns if c.name]
        numbers = [c for c in self.columns if not c.name]
        for row, style in enumerate(self.styles):
            yield Text()
            yield Text(" x ".join(c.cells[row] for c in names), f"bold {style}".strip())
            for column in numbers:
                yield Text(f"  {column.title}: {column.cells[row]}")
        yield Text()


def _broken(names: Sequence[str]) -> list[str]:
    """Names in several lines, as short as the longest word lets them be; the words end with spaces
    and commas."""
    words = [re.findall(r"[^ ,]+,?|,", name) for name in names]
    width = max([SHORT, *(len(word) for of_one in words for word in of_one)])
    return ["\n".join(_lines(of_one, width)) for of_one in words]


def _lines(words: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        gap = "" if lines and lines[-1].endswith(",") else " "
        if lines and len(lines[-1] + gap + word) <= width:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines
