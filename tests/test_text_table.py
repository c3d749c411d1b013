"""Columns fit their widest cell, so that cells are apart whatever they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brigade.bench.floor import Floor
from brigade.bench.gauge import Reading
from brigade.bench.latency import Latency, Sample
from brigade.bench.latency_report import Row, table
from brigade.text_table import columns, grouped

CELL = st.text("abc0123456789.-%", min_size=1, max_size=12)
LINES = st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=5))


def test_words_to_the_left_and_figures_to_the_right() -> None:
    assert columns([("name", "ms"), ("a", "5"), ("longer", "12345")]) == ["name       ms", "a           5", "longer  12345"]


@given(LINES)
def test_every_cell_is_read_back(lines: list[list[str]]) -> None:
    assert [line.split() for line in columns(lines)] == lines
    assert [line.replace("|", " ").split() for line in grouped([("left", lines), ("", lines)])][1:] == [2 * line for line in lines]


def test_a_title_widens_its_table() -> None:
    head, *rest = grouped([("", [["a"], ["1"]]), ("a long title", [["b", "c"], ["2", "3"]])])
    assert head == "  | a long title" and rest == ["a |         b  c", "1 |         2  3"]


def test_latencies_of_any_size_stay_apart() -> None:
    """A machine of petabytes a second and a run of weeks, and one that takes no time."""
    slow = Row(
        Latency(4096, (Sample(1.5e6, (2.5e6, 3.5e6), 7.5e6),), (Reading(1.25e18, 9.75e21),)), (Floor(1e6, (5e9, 6e9)),)
    )  # fmt: skip
    quick = Row(Latency(1, (Sample(1e-9, (1e-9, 1e-9), 3e-9),), (Reading(1e9, None),)), (Floor(1e-9, (1e-9, 1e-9)),))
    lines = table([slow, quick])
    cells = [line.replace("|", " ").split() for line in lines[1:]]
    assert {len(line) for line in cells} == {len(cells[0])} == {18} and len({len(line) for line in lines[1:]}) == 1
    assert cells[1][:3] == ["4096", "1250000000", "9750000000000"] and cells[1][3] == "7500000000"
