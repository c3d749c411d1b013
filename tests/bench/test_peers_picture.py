"""The picture of the peers' table: every bar as long as its time, the fastest first, ours in the colour of its bits."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.peers.alternation import Measured, Sample
from benchmarks.peers.figures import Figures
from benchmarks.peers.picture import COLOURS, PEER, draw
from benchmarks.peers.works import cells

CELLS = cells(["latency", "stream"], [1, 4])
SECONDS = {
    "brigade/bf16": (0.4, 1.0, 2.0),
    "peer/bf16": (0.8, 2.0, 4.0),
    "brigade/int4": (0.2, 0.5, 1.0),
    "peer/q4": (0.3, 0.4, 3.0),
}
BITS = {"brigade/bf16": 16, "peer/bf16": 16, "brigade/int4": 4, "peer/q4": 4}


def measured(times: tuple[float, ...]) -> Measured:
    found = Measured()
    for cell, seconds in zip(CELLS, times, strict=True):
        found.samples[cell] = [Sample(seconds, None, [[1]], 0.0)]
    return found


@pytest.fixture
def drawing() -> ElementTree.Element:
    figures = Figures({"peer": {label: measured(times) for label, times in SECONDS.items()}}, BITS)
    return ElementTree.fromstring(draw(figures, CELLS, "a model & its peers", "a processor\nshorter is faster"))


def elements(drawing: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [element for element in drawing.iter() if element.tag.endswith("}" + tag)]


def test_a_bar_is_as_long_as_its_time_and_the_longest_fills_its_lane(drawing) -> None:
    bars = [bar for bar in elements(drawing, "rect") if bar.get("height") == "13.0"]
    assert len(bars) == len(CELLS) * len(SECONDS)
    for place, cell in enumerate(CELLS):
        lengths = [float(bar.get("width")) for bar in bars[place * 4 : place * 4 + 4]]
        times = sorted(times[place] for times in SECONDS.values())
        assert lengths == sorted(lengths), f"{cell.name}: the fastest comes first"
        assert [round(length / lengths[-1], 2) for length in lengths] == pytest.approx([t / times[-1] for t in times], abs=0.01)


def test_ours_have_the_colour_of_their_bits_and_peers_none(drawing) -> None:
    bars = [bar for bar in elements(drawing, "rect") if bar.get("height") == "13.0"]
    assert [bar.get("fill") for bar in bars[:4]] == [COLOURS[4], PEER, COLOURS[16], PEER], "batch 1 by time: 0.2, 0.3, 0.4, 0.8"
    assert [bar.get("fill") for bar in bars[4:8]] == [PEER, COLOURS[4], COLOURS[16], PEER], "batch 4: the peer's 4 bits come first"


def test_the_figures_stand_beside_the_bars_in_their_unit_and_for_those_who_see_no_picture(drawing) -> None:
    words = [text.text for text in elements(drawing, "text")]
    assert {"200", "300", "400", "800", "1.00", "4.00"} <= set(words)
    assert {"a processor", "shorter is faster"} <= set(words), "a line of the note each"
    assert "one stream: 128 ids in, 128 out, seconds" in words and "a model & its peers" in words
    told = elements(drawing, "desc")[0].text
    assert "batch 1: brigade/int4 200, peer/q4 300, brigade/bf16 400, peer/bf16 800" in told


def test_an_engine_that_has_no_figure_has_no_bar() -> None:
    heat = {label: measured(times) for label, times in SECONDS.items()}
    heat["peer/q4"].samples.clear()
    picture = ElementTree.fromstring(draw(Figures({"peer": heat}, BITS), CELLS, "t", "n"))
    names = {text.text for text in elements(picture, "text")}
    assert "peer/q4" not in names and {"peer/bf16", "brigade/bf16", "brigade/int4"} <= names
