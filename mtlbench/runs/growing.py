"""CSV files that grow while a run goes on."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtlbench.files import write_atomically


class GrowingTable:
    """A CSV file of rows that may have new columns.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []

    def begin(
        self, keep: Callable[[Mapping[str, str]], bool], rows: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Go on with those rows of the file that are to be kept, and with further ones."""
        kept = [*filter(keep, self._rows()), *rows]
        self._columns = _columns(kept)
        if kept:
            self._rewrite(kept)
        else:
            self.path.unlink(missing_ok=True)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write more rows; the file is written anew where they have other columns."""
        more = list(rows)
        if not more:
            return
        if set(_columns(more)) - set(self._columns):
            self._columns = list(dict.fromkeys([*self._columns, *_columns(more)]))
            self._rewrite([*self._rows(), *more])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(more)

    def _rows(self) -> list[dict[str, str]]:
        """All whole rows; a process that was killed may have left half of one."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.path, write)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
