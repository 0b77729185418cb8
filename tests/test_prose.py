"""Texts with numbers: what a template may ask, and what it is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlbench.boards import tables
from mtlbench.boards.build import build
from mtlbench.boards.prose import TEMPLATE, prose
from mtlbench.errors import UsageError
from mtlbench.runs.store import Store
from tests.test_comparisons import sweep


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boards")
    tables.write(build(sweep()), folder)
    for record in sweep(seeds=[0]):
        Store(folder / "tuning").write(record)
    return folder


def say(folder: Path, template: str) -> str:
    (folder / TEMPLATE).write_text(template)
    return prose(folder)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ row('digits', 'TILT').delta_m|n(1) }}", "10.0"),
        ("{{ row('digits', 'TILT x *')|pm }}", "9.9 ± 0.2"),
        ("{{ metrics('digits', 'TILT').error|n(2) }}", "2.00"),
        ("{{ pair('digits', 'TILT', 'SUM').difference|n(1) }}", "5.0"),
        ("{{ pair('digits', 'SUM', 'TILT').difference|n(1) }}", "-5.0"),
        ("{{ pair('digits', 'SUM', 'TILT')|by }}", "5.0 (4.9 to 5.1)"),
        ("{{ pair('digits', 'TILT', 'SUM')|span }}", "+5.0 (4.9 to 5.1)"),
        ("{{ pair('digits', 'SUM', 'TILT')|span }}", "-5.0 (-5.1 to -4.9)"),
        ("{{ pair('digits', 'SUM', 'TILT').is_better }}", "True"),
        ("{{ pair('digits', 'SUM x flat', 'SUM').is_equal }}", "True"),
        ("{{ pairs('digits', '* x flat', '*', same_method=true)|length }}", "2"),
        ("{{ against('digits', 'SUM').verdict.tolist() }}", "['equal', 'worse', 'worse']"),
        ("{{ against('digits', 'TILT').difference.min()|n(1) }}", "-5.1"),
        ("{{ clear('digits')['first'].tolist() }}", "['TILT']"),
        ("{{ table('digits_seeds').seed.max() }}", "4"),
        ("{{ verdicts().splitlines()[-1][:15] }}", "| digits | 5 | "),
        ("{{ scores('tuning', 'digits').max() }}", "1.0"),
        ("{{ tuned('tuning', 'digits', 1)[:11] }}", "**SINGLE: 1"),
        ("{{ claim(pair('digits', 'TILT', 'SUM').is_worse, 'so') }}.", "."),
    ],
)
def test_what_a_template_may_ask(template: str, text: str, boards: Path) -> None:
    assert say(boards, template) == text


def test_answers(boards: Path) -> None:
    said = say(boards, "{{ answers('digits') }}")
    assert said.startswith("TILT is worse than SUM (+5.0, 4.9 to 5.1); SUM x flat is equal to SUM")
    assert said.endswith("0 of 3 questions are open")


def test_a_claim_that_does_not_hold_is_named(boards: Path) -> None:
    asked = "{{ claim(row('digits', 'TILT').delta_m < 0, 'TILT beats STL') }}"
    with pytest.raises(UsageError, match=r"says what the tables do not; write anew:\n  TILT beats"):
        say(boards, asked)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ row('digits', 'LS') }}", "not one of a row 'LS' in digits, but 0"),
        ("{{ row('mars', 'LS') }}", r"there is no .*mars_standings.csv"),
        ("{{ pairs('digits', 'LS') }}", "no pair of digits fits 'LS'"),
        ("{{ tuned('tuning', 'mars') }}", "no record of mars"),
        ("\n{{ numbers }}", "'numbers' is undefined"),
        ("\n{% if %}", r"README.md.jinja, line 2: Expected an expression"),
        ("{{ row('digits', 'TILT').colour }}", "colour"),
    ],
)
def test_what_is_not_there(template: str, message: str, boards: Path) -> None:
    with pytest.raises(UsageError, match=message):
        say(boards, template)
