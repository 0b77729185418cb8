"""Boards as CSV files, and whether the committed ones are what their records make."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile, zip_longest
from pathlib import Path

import pandas as pd

from mtlbench.boards.build import Board
from mtlbench.boards.comparisons import pairs, standings
from mtlbench.files import to_csv, write_csv


def files(boards: Mapping[str, Board]) -> dict[str, pd.DataFrame]:
    """File name to table: ``<task>.csv``, the runs behind it in ``<task>_seeds.csv``, and what they
    show in ``<task>_pairs.csv`` and ``<task>_standings.csv``."""
    named: dict[str, pd.DataFrame] = {}
    for task, board in boards.items():
        named |= {f"{task}.csv": board.rows, f"{task}_seeds.csv": board.seeds}
        found = pairs(board)
        named |= {f"{task}_pairs.csv": found, f"{task}_standings.csv": standings(board, found)}
    return named


def write(boards: Mapping[str, Board], folder: Path) -> list[Path]:
    """Write all CSV files of ``boards`` and say where they are."""
    named = files(boards)
    for name, frame in named.items():
        write_csv(frame, folder / name)
    return [folder / name for name in named]


def check(boards: Mapping[str, Board], folder: Path) -> list[str]:
    """Compare the CSV files of boards with those in ``folder``, byte for byte.

    Returns:
        One line for every file that differs, is missing, or has no records; empty if all is well.
    """
    expected = {name: to_csv(frame).encode() for name, frame in files(boards).items()}
    present = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    complaints = []
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            complaints.append(f"{name}: missing")
        elif name not in expected:
            complaints.append(f"{name}: there are no records behind it")
        elif present[name] != expected[name]:
            complaints.append(f"{name}: {first_difference(present[name], expected[name])}")
    return complaints


def first_difference(present: bytes, expected: bytes) -> str:
    """Where two files that differ begin to."""
    pairs = zip_longest(present.splitlines(True), expected.splitlines(True), fillvalue=b"")
    for number, (found, rebuilt) in enumerate(pairs, start=1):
        if found != rebuilt:
            is_now, was_made = _excerpt(found, rebuilt), _excerpt(rebuilt, found)
            return f"line {number} has {is_now}, the records give {was_made}"
    raise AssertionError("called with equal bytes")


def _excerpt(line: bytes, other: bytes, width: int = 30) -> str:
    """The part of a line around the first byte that differs from ``other``."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(line, other, strict=False))
    start = max(0, sum(1 for _ in same) - width)
    cut = line[start : start + 2 * width].decode(errors="replace")
    return repr(f"...{cut}" if start else cut)
