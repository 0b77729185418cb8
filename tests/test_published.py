"""The literature's tables: what is read, compared, merged and printed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mtlbench.boards.published import Literature, Number, Row, datasets
from mtlbench.cli import main
from mtlbench.errors import UsageError


def text(table: Literature) -> str:
    console = Console(width=150, file=io.StringIO())
    console.print(*table.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(table: Literature, method: str) -> Row:
    (found,) = (r for pool in table.pools.values() for r in pool if r.method == method)
    return found


def test_the_data_sets_that_have_tables() -> None:
    assert datasets() == ["celeba", "cityscapes", "nyuv2", "office-home", "qm9"]
    assert Literature.read("office_home").dataset == "office-home"


def test_an_unknown_data_set() -> None:
    with pytest.raises(UsageError, match="nothing is published here for 'mars'; there are: celeba"):
        Literature.read("mars")


def test_copies_of_a_row_are_one() -> None:
    table = Literature.read("cityscapes")
    mgda = row(table, "MGDA")
    assert [table.sources[s - 1].partition(",")[0] for s in mgda.sources] == [
        "Nash-MTL",
        "FAMO",
        "NTKMTL",
    ]
    assert mgda.printed == 44.14
    assert mgda.delta == pytest.approx(44.14, abs=0.01)


def test_ranks_are_taken_among_rows_with_the_same_single_tasks() -> None:
    table = Literature.read("qm9")
    assert len(table.pools) == 3  # the standard one, NTKMTL's and DB-MTL's own
    for pool in table.pools.values():
        ranks = [r.rank for r in pool if r.rank == r.rank]
        assert sum(ranks) == pytest.approx(len(ranks) * (len(ranks) + 1) / 2)


def test_a_printed_delta_that_its_metrics_contradict_is_listed() -> None:
    said = text(Literature.read("office-home"))
    assert "IMTL-G [1]: printed 1.10, its metrics give 1.51; rounding explains 0.02" in said
    assert "AS PUBLISHED: another protocol than our runs" in said
    assert "1.51!" in said


def test_rows_without_metrics_keep_what_is_printed() -> None:
    table = Literature.read("celeba")
    assert not table.directions
    assert row(table, "FairGrad").printed == 0.37
    assert "read in a summary of the paper" in text(table)


def test_numbers_that_were_rounded_or_cut_are_the_same() -> None:
    assert Number(0.502, 0.0005, "0.502").agrees(Number(0.5027, 0.00005, "0.5027"))
    assert not Number(0.502, 0.0005, "0.502").agrees(Number(0.504, 0.00005, "0.5040"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--published", "cityscapes"]) == 0
    out = capsys.readouterr().out
    assert "Nash-MTL" in out
    assert "[1] Nash-MTL, Navon et al." in out
    assert main(["leaderboard", "--published", "mars"]) == 2
    assert "nothing is published here for 'mars'" in capsys.readouterr().err
