"""All that is made of a folder of records: tables, pictures, the page, the text; written, or
compared with what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtlbench.boards import tables
from mtlbench.boards.build import Board
from mtlbench.boards.mechanism import Study, section
from mtlbench.boards.page import page
from mtlbench.boards.plot import picture
from mtlbench.boards.prose import TEMPLATE, prose
from mtlbench.errors import UsageError
from mtlbench.files import write_atomically
from mtlbench.runs.record import RunRecord
from mtlbench.svg import made_by, version_of, without_pictures

PAGE = "index.html"
TEXT = TEMPLATE.removesuffix(".jinja")
STUDY = "diagnose"
"""Folder of the study that ``mtlbench diagnose --study`` has written, beside the tables."""


def write(
    boards: Mapping[str, Board], records: Sequence[RunRecord], folder: Path, tasks: Sequence[str]
) -> Iterator[Path]:
    """Write what follows from the records, and say where it is.

    Args:
        boards: all of the folder.
        records: that they are made of.
        folder: to write to.
        tasks: whose tables and pictures are written; page and text are about all.

    Raises:
        UsageError: the text says what the tables do not show. All else is written by then.
    """
    mine = {task: boards[task] for task in tasks}
    yield from tables.write(mine, folder)
    for task, board in mine.items():
        yield _write(folder / f"{task}.svg", picture(board))
    yield from write_study(folder / STUDY)
    yield _write(folder / PAGE, page(boards, records, why(folder)))
    if (folder / TEMPLATE).is_file():
        yield _write(folder / TEXT, prose(folder))


def write_study(folder: Path) -> Iterator[Path]:
    """Write what follows from the runs of a study, if there is one."""
    study = Study.read(folder)
    for name, text in {} if study is None else study.files().items():
        yield _write(folder / name, text)


def why(folder: Path) -> str:
    """The study's section of the page; empty if there is none."""
    study = Study.read(folder / STUDY)
    return "" if study is None else section(study)


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
    return path


@dataclass
class Check:
    """What a folder is found to be.

    Args:
        complaints: one for every file that is not what the records make.
        checked: what was compared.
        remarks: what could be compared in part only, and why.
    """

    complaints: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check(boards: Mapping[str, Board], records: Sequence[RunRecord], folder: Path) -> Check:
    """Rebuild all that is there and compare it, byte for byte.

    Pictures are compared so where this matplotlib is the one that made them, else by the digest of
    what is drawn, which stands beside each. Tables have to be there; what else is not is not
    missed.

    Args:
        boards: all of the folder.
        records: that they are made of.
        folder: to compare with.
    """
    found = Check(tables.check(boards, folder), ["every CSV file"])
    pictures = [task for task in boards if (folder / f"{task}.svg").is_file()]
    for task in pictures:
        _compare(found, folder / f"{task}.svg", picture(boards[task]))
    if pictures:
        found.checked.append("every picture")
    study = Study.read(folder / STUDY)
    if study is not None:
        for name, text in study.files().items():
            _compare(found, folder / STUDY / name, text)
        found.checked.append("the study")
    if (folder / PAGE).is_file():
        _compare(found, folder / PAGE, page(boards, records, why(folder)))
        found.checked.append(PAGE)
    if (folder / TEMPLATE).is_file():
        try:
            _compare(found, folder / TEXT, prose(folder))
        except UsageError as error:
            found.complaints.append(str(error))
        found.checked.append(TEXT)
    return found


def _compare(found: Check, path: Path, expected: str) -> None:
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    if present == expected:
        return
    by = version_of(present)
    if by and by != made_by():
        present, expected = without_pictures(present), without_pictures(expected)
        found.remarks.append(
            f"{path.name} is of {by}, this is {made_by()}: its pictures are compared by the "
            "digests of what they show"
        )
    if present != expected:
        difference = tables.first_difference(present.encode(), expected.encode())
        found.complaints.append(f"{path.name}: {difference}")
