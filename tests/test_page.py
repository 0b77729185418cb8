"""The page: what is on it, and that it asks for nothing. test_browser.py has it in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtlbench.boards.build import build
from mtlbench.boards.figures import by_objective, pareto
from mtlbench.boards.groups import tables
from mtlbench.boards.page import page
from mtlbench.cli import main
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import Store
from tests.factories import record
from tests.test_comparisons import sweep


@pytest.fixture(scope="module")
def html() -> str:
    return page(build(sweep()))


def test_the_answer_comes_first(html: str) -> None:
    answer, numbers = html.index("<b>TILT</b> is worse than SUM: +5.0"), html.index("<table")
    assert answer < numbers
    assert "<b>SUM x flat</b> is equal to SUM" in html
    assert "0 of 3 questions are open" in html
    assert "to show one of 1 takes it" in html


def test_nothing_is_asked_of_a_network(html: str) -> None:
    links = set(re.findall(r"https?://[^\s\"'<>)]+", html))
    assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert not re.findall(r"@import|fetch\(|XMLHttpRequest", html)
    assert len(html.encode()) < 3_000_000


def test_it_is_whole_without_scripts_and_the_same_every_time(html: str) -> None:
    assert "<noscript>" in html
    table = html[html.index("<table") : html.index("</table>")]
    assert table.count("<td>TILT x flat</td>") == 1
    assert html.count("<svg") == 3
    assert html == page(build(sweep()))


def figure(html: str, label: str) -> str:
    """A picture by the end of what it is called."""
    (found,) = re.findall(rf'<svg role="img" aria-label="[^"]*{label}" .*?</svg>', html, re.DOTALL)
    return str(found)


def test_a_difference_has_a_mark_that_can_be_seen(html: str) -> None:
    # The first estimates of differences were drawn with a clear edge.
    drawn = figure(html, "differences to SUM")
    marks = re.findall(r'<use xlink:href="#[^"]+" [^>]*style="([^"]*)"/>', drawn)
    blue = [style for style in marks if "stroke: var(--c0)" in style]
    assert len(blue) == 3
    assert not any("opacity: 0" in style for style in blue)
    assert "stroke-opacity: 0" not in drawn


def test_an_open_difference_is_hollow() -> None:
    records = [r for r in sweep() if r.identity.method != "tilt"]
    noisy = zip((60.0, 90.0, 120.0, 75.0, 99.0), range(5), strict=True)
    records += [record(accuracy, 2.0, method="tilt", seed=seed) for accuracy, seed in noisy]
    drawn = figure(page(build(records)), "differences to SUM")
    assert re.search(
        r'<use xlink:href="#[^"]+" [^>]*style="fill-opacity: 0; stroke: var\(--c0\)', drawn
    )
    assert re.search(r'<use xlink:href="#[^"]+" [^>]*style="fill: var\(--c0\)', drawn)


def test_the_pareto_front() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0), (1.0, 6.0)]
    assert pareto(points) == [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]


def test_each_objective_against_the_reference(html: str) -> None:
    drawn = figure(html, "objectives against the reference")
    (table,) = tables(build(sweep())["digits"])
    lost = by_objective(table, "TILT")
    assert lost == pytest.approx({"left": 20.0, "right": 0.0}, abs=0.1)
    assert all(f">{text}</text>" in drawn for text in ("left", "right", "TILT x flat"))


def test_learning_curves_need_records() -> None:
    records = [long(r) for r in sweep()]
    assert "learning curves" not in page(build(records))
    drawn = figure(page(build(records), records), "learning curves")
    assert all(f">{text}</text>" in drawn for text in ("SUM", "TILT", "flat", "plain"))


def long(record: RunRecord) -> RunRecord:
    """With three epochs."""
    (phase,) = record.phases
    return record.model_copy(
        update={"phases": [phase.model_copy(update={"epochs": phase.epochs * 3})]}
    )


def test_the_command_behind_each_row(html: str) -> None:
    records = [with_command(r) for r in sweep(seeds=[0, 2])]
    made = page(build(records))
    said = "<code>mtlbench run digits --method tilt --seed 0 2 --out runs</code>"
    assert f'<dt>TILT <span class="soft">at 01234567</span></dt><dd>{said}</dd>' in made
    assert made.count("<dt>") == 5


def with_command(record: RunRecord) -> RunRecord:
    identity = record.identity
    line = f"mtlbench run digits --method {identity.method} --seed {identity.seed} --out runs"
    origin = record.provenance.model_copy(update={"command": line})
    return record.model_copy(update={"provenance": origin})


def test_ids_are_unique() -> None:
    ids = re.findall(r' id="([^"]+)"', page(build([*sweep(), *sweep(epochs=9)])))
    assert len(ids) == len(set(ids))


def test_names_are_text_and_no_markup() -> None:
    records = [*sweep(), *(record(85.0, method="<b>&", seed=s) for s in range(5))]
    made = page(build(records))
    assert "<B>&amp;" not in made
    assert "&lt;B&gt;&amp;" in made


@pytest.mark.parametrize(
    "records", [sweep(seeds=[0]), [r for r in sweep() if r.role != "reference"]]
)
def test_what_cannot_be_compared_still_makes_a_page(records: list[RunRecord]) -> None:
    assert "Nothing is compared" in page(build(records))


def test_the_literature_is_kept_apart(html: str) -> None:
    assert html.index('id="published"') > html.rindex("<svg")
    assert "not to be compared with the tables above" in html
    assert "Nash-MTL, Navon et al." in html


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for made in sweep(seeds=[0, 1]):
        Store(tmp_path / "records").write(made)
    out = tmp_path / "site" / "index.html"
    assert main(["page", str(tmp_path / "records"), "--out", str(out)]) == 0
    assert out.read_text().startswith("<!doctype html>")
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert main(["page", str(tmp_path / "nowhere")]) == 2
