"""The committed page in Chromium: sorting, filtering, keys, themes, widths, and no request.

Takes the ``browser`` extra and Debian's ``chromium``; ``.ci/run`` has both. MTLBENCH_SCREENSHOTS
names a folder that keeps what is to be looked at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install mtlbench[browser]")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PAGE = Path(__file__).parent.parent / "leaderboards" / "index.html"
ROWS = "table => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
TABLE = "section:has(#multimnist) table >> nth=0"
SIZES, THEMES = (400, 1400), ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(browser: Any, width: int = 1400, theme: str = "light") -> Iterator[Any]:
    """The page; nothing may go wrong in it, and nothing leave it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page, wrong = context.new_page(), []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(PAGE.as_uri())
    assert wrong.pop(0) == PAGE.as_uri()
    yield page
    assert wrong == []
    context.close()


def test_sorting_by_mouse_and_by_keys(browser: Any) -> None:
    with opened(browser) as page:
        table = page.locator(TABLE)
        header = table.locator("th", has_text="Δm%")
        before = table.evaluate(ROWS)
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        up = table.evaluate(ROWS)
        header.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        down = table.evaluate(ROWS)
        assert sorted(up) == sorted(before)
        assert up[0] in down[-3:-1]
        assert up[-1] == down[-1] == "STL", "rows without a number come last"
        place = column(table, "Δm%")
        shown = table.locator(f"tbody td:nth-child({place + 1})").all_text_contents()
        numbers = [float(text.split(" ")[0]) for text in shown[:-1]]
        assert numbers == sorted(numbers, reverse=True)


def column(table: Any, header: str) -> int:
    titles = table.locator("thead th").all_text_contents()
    (found,) = (n for n, title in enumerate(titles) if title.startswith(header))
    return found


def test_filtering(browser: Any) -> None:
    with opened(browser) as page:
        page.get_by_label("filter the rows of multimnist", exact=True).fill("samo FAIR")
        left = page.locator(TABLE).evaluate(ROWS)
        assert left
        assert all(name.startswith("FairGrad x SAMO") for name in left)
        page.get_by_label("filter the rows of multimnist", exact=True).fill("")
        assert len(page.locator(TABLE).evaluate(ROWS)) > 10


def test_the_tab_key_reaches_everything_in_the_order_of_the_page(browser: Any) -> None:
    wanted = "a, button, input, summary, [tabindex='0']"
    here = f"[...document.querySelectorAll({wanted!r})].indexOf(document.activeElement)"
    with opened(browser) as page:
        shown = page.locator(f":is({wanted}):visible").count()
        places = []
        for _ in range(shown):
            page.keyboard.press("Tab")
            places.append(page.evaluate(here))
            assert page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            ), "what has the focus is marked"
        assert places == sorted(set(places))
        assert places[0] >= 0
        assert len(places) == shown


@pytest.mark.parametrize("theme", THEMES)
def test_the_theme_is_the_systems_until_it_is_chosen(browser: Any, theme: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    colour = "getComputedStyle(document.querySelector('figure svg use')).fill"
    with opened(browser, theme=theme) as page:
        dark = page.evaluate(ground) != "rgb(255, 255, 255)"
        assert dark == (theme == "dark")
        before = page.evaluate(ground), page.evaluate(colour)
        page.locator("#theme").click()
        after = page.evaluate(ground), page.evaluate(colour)
        assert before[0] != after[0]
        assert before[1] != after[1], "pictures change with the page"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", SIZES)
def test_nothing_sticks_out(browser: Any, width: int, theme: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("MTLBENCH_SCREENSHOTS", tmp_path))
    with opened(browser, width, theme) as page:
        assert page.evaluate("innerWidth") == width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
        assert loaded < 5000, "milliseconds"
        for place in ("", "#multimnist", "#multimnist ~ .figures", "#celeba ~ .figures", "#across"):
            if place:
                page.evaluate(f"document.querySelector({place!r}).scrollIntoView()")
            name = place.strip("#").replace(" ~ .", "-") or "top"
            page.screenshot(path=folder / f"{width}-{theme}-{name}.png")


def test_without_scripts_it_is_whole(browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(PAGE.as_uri())
    assert not page.locator("#theme").is_visible()
    assert page.locator(f"{TABLE} >> tbody tr").count() > 10
    context.close()


def test_it_is_small() -> None:
    assert PAGE.stat().st_size < 3_000_000
