"""The page: what is on it, that it asks for nothing, and that it works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mtlbench.boards.build import build
from mtlbench.boards.page import page
from mtlbench.cli import main
from mtlbench.runs.record import RunRecord
from mtlbench.runs.store import Store
from tests.factories import record
from tests.test_comparisons import sweep

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
ERRORS = "<script>window.errors = []; onerror = (text) => { errors.push(text); };</script>"
PROBE = """<script>
const table = document.querySelector("table.sortable");
const names = () => [...table.tBodies[0].rows].filter((r) => !r.hidden)
  .map((r) => r.cells[0].textContent).join("|");
const header = [...table.tHead.rows[0].cells].find((c) => c.textContent.startsWith("Δm%"));
const said = {};
header.querySelector("button").click(); said.up = names();
header.querySelector("button").click(); said.down = names();
said.sorted = header.getAttribute("aria-sort");
const filter = document.querySelector("input[type=search]");
filter.value = "tilt FLAT"; filter.dispatchEvent(new Event("input")); said.filtered = names();
const ground = () => getComputedStyle(document.body).backgroundColor;
const before = ground(); document.getElementById("theme").click();
said.themes = before !== ground();
said.wide = document.documentElement.scrollWidth <= innerWidth;
said.requests = performance.getEntriesByType("resource").length; said.errors = errors;
document.title = JSON.stringify(said);
</script>"""


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
    assert html.count("<td>TILT x flat</td>") == 1
    assert html.count("<svg") == 2
    assert html == page(build(sweep()))


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


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser(html: str, width: int, tmp_path: Path) -> None:
    probed = html.replace("<head>", f"<head>{ERRORS}").replace("</body>", f"{PROBE}</body>")
    (tmp_path / "page.html").write_text(probed)
    words = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    ended = subprocess.run(
        [str(CHROMIUM), *FLAGS, *words, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = re.search(r"<title>(\{.*\})</title>", ended.stdout)
    assert found, ended.stderr
    said = json.loads(found[1])
    up, down = (said[way].split("|")[:-1] for way in ("up", "down"))
    assert up[0].startswith("SUM")
    assert down == up[::-1]
    assert said["up"].endswith("|SINGLE"), "rows without a number come last"
    assert said["down"].endswith("|SINGLE")
    assert said["filtered"] == "TILT x flat"
    expected = {"sorted": "descending", "themes": True, "wide": True, "requests": 0, "errors": []}
    assert {name: said[name] for name in expected} == expected
