"""What is committed of a folder of records: written, compared, and compared across versions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mtlbench.boards.build import build
from mtlbench.boards.outputs import check, write
from mtlbench.boards.prose import TEMPLATE
from mtlbench.drawing import COLOURS
from mtlbench.svg import made_by
from tests.test_comparisons import sweep

RECORDS = sweep(seeds=[0, 1])
ALL = ["every CSV file", "every picture", "index.html", "README.md"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boards")
    (folder / TEMPLATE).write_text("Δm% {{ row('digits', 'TILT').delta_m|n(1) }}\n")
    list(write(build(RECORDS), RECORDS, folder, ["digits"]))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "boards"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_is_written_is_what_is_expected(folder: Path) -> None:
    found = check(build(RECORDS), RECORDS, folder)
    assert (found.complaints, found.checked, found.remarks) == ([], ALL, [])


def test_any_byte_is_missed_and_an_untrue_claim_named(folder: Path) -> None:
    edit(folder / "digits.svg", 'd="M', 'd="L')
    edit(folder / "index.html", "TILT", "TlLT")
    (folder / "README.md").unlink()
    said = check(build(RECORDS), RECORDS, folder).complaints
    assert [line.partition(":")[0] for line in said] == ["digits.svg", "index.html", "README.md"]

    for name in ("digits.svg", "index.html"):
        (folder / name).unlink()
    (folder / TEMPLATE).write_text("{{ claim(false, 'TILT wins') }}")
    (complaint,) = check(build(RECORDS), RECORDS, folder).complaints
    assert complaint.endswith("write anew:\n  TILT wins")


def test_pictures_of_another_matplotlib_are_compared_by_what_they_show(folder: Path) -> None:
    for name in ("digits.svg", "index.html"):
        edit(folder / name, made_by(), "matplotlib 2.0.0")
        edit(folder / name, 'd="M', 'd="L')
    found = check(build(RECORDS), RECORDS, folder)
    assert found.complaints == []
    assert found.remarks[1] == (
        f"index.html is of matplotlib 2.0.0, this is {made_by()}: its pictures are compared by the "
        "digests of what they show"
    )
    edit(folder / "digits.svg", ", of ", ", of 0")
    (folder / "index.html").unlink()
    assert len(check(build(RECORDS), RECORDS, folder).complaints) == 1


def test_tables_alone_are_checked_alone(folder: Path) -> None:
    for name in ("digits.svg", "index.html", TEMPLATE):
        (folder / name).unlink()
    assert check(build(RECORDS), RECORDS, folder).checked == ALL[:1]


def test_the_style_sheet_has_the_pictures_colours() -> None:
    style = (Path(check.__code__.co_filename).parent / "page.css").read_text()
    light, system, dark = (line for line in style.splitlines() if "--c0" in line)
    assert all(f"--c{n}: {colour};" in light for n, colour in enumerate(COLOURS))
    assert system.partition("--c0")[2].rstrip("} ") == dark.partition("--c0")[2].rstrip("} ")
