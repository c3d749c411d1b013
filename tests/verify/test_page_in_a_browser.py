"""The page of `brigade verify matrix --html` in a real browser, opened as a file: light and dark, wide, narrow and printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brigade.verify.page import render
from tests.verify.browser import NAMES, Browser, find_browser
from tests.verify.pages import DIFFERENT, HOSTILE, plan, state

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason=f"no browser is installed ({', '.join(NAMES)}); on Debian: apt-get install chromium"
)
WIDTHS = (320, 600, 700, 1041, 1400)  # besides those of the suite
slow = pytest.mark.slow
LONG = "cannot read /a/folder/" + "x" * 300


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    started = Browser(str(find_browser()), tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """One where all is well, one with every kind of trouble, and one that did not come to its end."""
    folder, whole = tmp_path_factory.mktemp("pages"), plan()
    states = {
        "same": state(whole),
        "wrong": state(whole, {2: DIFFERENT, 5: LONG, 6: HOSTILE, 20: DIFFERENT, 40: "no ranks today"}),
        "stopped": state(whole, {3: DIFFERENT}, 24, stopped="it was interrupted"),
    }
    for name, each in states.items():
        (folder / f"{name}.html").write_text(render(whole, each))
    return {name: folder / f"{name}.html" for name in states}


def test_the_browser_tells_what_is_wrong_with_a_page(browser: Browser, tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    page = tmp_path / "bad.html"
    page.write_text("<div style='width:2000px'>x</div><img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>")
    browser.open(page, 400)
    assert browser.ask("document.documentElement.scrollWidth") > 400
    assert any("oh" in words for words in browser.complaints()) and browser.requested()[1:] == ["http://127.0.0.1:9/x.png"]


@pytest.mark.parametrize(
    ("kind", "dark"),
    [("same", True), ("wrong", False), *(pytest.param(*each, marks=slow) for each in (("same", False), ("wrong", True)))]
    + [pytest.param("stopped", dark, marks=slow) for dark in (False, True)],
)
def test_it_opens_without_a_complaint_and_asks_for_nothing(kind: str, dark: bool, browser: Browser, pages) -> None:
    browser.open(pages[kind], dark=dark)
    assert browser.complaints() == [] and browser.requested() == [pages[kind].as_uri()]
    assert browser.ask("document.compatMode") == "CSS1Compat" and browser.ask("document.querySelectorAll('script').length") == 0
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 24, 28)" if dark else "rgb(251, 250, 247)")


VISIBLE = """[...document.querySelectorAll(%r)].filter(each => {
  const box = each.getBoundingClientRect(); return box.width > 4 && box.height > 4 && each.checkVisibility(); }).length"""


@pytest.mark.parametrize("width", [400, 1200])
def test_every_row_is_there_to_be_seen_with_its_picture(width: int, browser: Browser, pages) -> None:
    rows, layouts = plan().runs, {run.layout for run in plan().runs}
    browser.open(pages["wrong"], width)
    expected = {
        "tr.row": len(rows), "tr.row svg.small": len(rows), "tr.row .badge": len(rows), "article": 5,
        ".picture svg": len(layouts), ".rank": sum(layout.ranks for layout in layouts),
    }  # fmt: skip
    for what, count in expected.items():
        assert browser.ask(VISIBLE % what) == count, what
    first = browser.ask("document.querySelector('.answer strong').getBoundingClientRect().bottom")
    assert first < 200, "the answer is what is seen first"


def test_a_long_error_squeezes_no_name(browser: Browser, pages) -> None:
    browser.open(pages["wrong"], 1200)
    assert browser.ask("document.querySelector('#row-5 th').getBoundingClientRect().width") > 250
    assert browser.ask("document.querySelector('#row-5').getBoundingClientRect().height") < 90
    assert browser.ask("document.querySelector('#why-5').innerText").endswith(LONG), "all of it is above the table"


@pytest.mark.parametrize(
    ("kind", "width"),
    [("wrong", 400), ("wrong", 1040), *(pytest.param("wrong", width, marks=slow) for width in WIDTHS)]
    + [pytest.param(kind, 400, marks=slow) for kind in ("same", "stopped")],
)
def test_no_width_makes_it_scroll_sideways(kind: str, width: int, browser: Browser, pages) -> None:
    browser.open(pages[kind], width)
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('main *')].filter(each => !each.closest('.picture, thead')
      && each.getBoundingClientRect().right > innerWidth + 0.5).map(each => each.outerHTML.slice(0, 80))"""
    assert browser.ask(outside) == []


def test_words_of_a_picture_stay_in_their_boxes(browser: Browser, pages) -> None:
    """With the letters that this machine really has."""
    browser.open(pages["same"], 1400)
    wide = """[...document.querySelectorAll('.picture text')].filter(text => {
      const words = text.getBoundingClientRect();
      const boxes = [...text.ownerSVGElement.querySelectorAll('.rank, .stage')].map(box => box.getBoundingClientRect());
      const around = boxes.filter(box => box.top <= words.top + 2 && box.bottom >= words.bottom - 2);
      return !around.some(box => box.left <= words.left && words.right <= box.right); }).map(text => text.textContent)"""
    assert browser.ask("document.querySelectorAll('.picture text').length") > 100 and browser.ask(wide) == []


@pytest.mark.parametrize("width", [400, 1200])
def test_a_reader_who_does_not_see_it_finds_a_table(width: int, browser: Browser, pages) -> None:
    browser.open(pages["wrong"], width)
    nodes = [node for node in browser.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = [node["role"]["value"] for node in nodes]
    named = {node["name"]["value"]: node for node in nodes if node["role"]["value"] in ("image", "img")}
    count = len(plan().runs)
    assert roles.count("table") == 1 and roles.count("row") == count + 2 * 9 + 1 and roles.count("columnheader") == 10
    assert roles.count("rowheader") == count + 9 and roles.count("heading") == 3 + 5
    picture = named["The layout tp2 x pp2: 4 ranks, 2 stages of 2 tensor ranks"]
    assert "rank 0, leader" in picture["description"]["value"] and "The layout tp2 x pp2" in named


def test_what_is_printed_is_whole_and_fits_the_paper(browser: Browser, pages) -> None:
    browser.open(pages["wrong"], 740, dark=True, media="print")  # A4 without its margins
    assert browser.ask("document.documentElement.scrollWidth") <= 740
    assert browser.ask("getComputedStyle(document.querySelector('.answer strong')).color") == "rgb(163, 33, 27)", "dark ink"
    wide = "[...document.querySelectorAll('.picture svg')].filter(each => each.getBoundingClientRect().right > innerWidth).length"
    assert browser.ask(wide) == 0
    assert len(browser.call("Page.printToPDF", printBackground=True)["data"]) > 10_000
