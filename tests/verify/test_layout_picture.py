"""The picture of a layout: a box for each rank where its stage and its share are, with its own layers and heads."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from brigade.parallel.degrees import make_mesh
from brigade.verify.layout import DEGREES
from brigade.verify.layout_picture import describe, draw_layout, draw_small
from tests.verify.pages import embedded

SVG = "{http://www.w3.org/2000/svg}"
CONFIG = embedded()  # 7 layers, 8 heads
Corners = tuple[float, float, float, float]


def corners(box: ElementTree.Element) -> Corners:
    x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def within(inner: Corners, outer: Corners) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def ranks(tp: int, pp: int, by_hand: list[int] | None = None) -> dict[str, tuple[Corners, list[str]]]:
    """By the name of each rank its box and the words below the name, read from the picture."""
    root = ElementTree.fromstring(draw_layout(make_mesh(CONFIG, tp, pp, by_hand), CONFIG, "x"))
    texts = [(float(text.get("x")), float(text.get("y")), text.text) for text in root.iter(f"{SVG}text")]
    found = {}
    for box in root.iter(f"{SVG}rect"):
        if "rank" in box.get("class", "").split():
            own = [words for x, y, words in texts if within((x, y, x, y), corners(box))]
            found[own[0]] = corners(box), own[1:]
    return found


def test_tensor_ranks_stand_beside_each_other_and_stages_below_each_other() -> None:
    found = ranks(2, 2)
    assert {name: words for name, (_, words) in found.items()} == {
        "rank 2": ["layers 0–3", "heads 0–3"], "rank 3": ["layers 0–3", "heads 4–7"],
        "rank 0, leader": ["layers 4–6", "heads 0–3"], "rank 1": ["layers 4–6", "heads 4–7"],
    }  # fmt: skip
    (first, _), (second, _), (leader, _) = found["rank 2"], found["rank 3"], found["rank 0, leader"]
    assert first[1] == second[1] and first[2] < second[0] and first[0] == leader[0] and first[3] < leader[1]


def test_layers_that_were_cut_by_hand() -> None:
    found = ranks(1, 2, [1, 6])
    assert found["rank 1"][1] == ["layer 0", "heads 0–7"] and found["rank 0, leader"][1] == ["layers 1–6", "heads 0–7"]


@pytest.mark.parametrize(("tp", "pp"), DEGREES)
def test_every_layout_fits_its_sheet_and_nothing_lies_on_anything(tp: int, pp: int) -> None:
    mesh = make_mesh(CONFIG, tp, pp)
    root = ElementTree.fromstring(draw_layout(mesh, CONFIG, f"{tp} by {pp}"))
    _, _, width, height = map(float, root.get("viewBox").split())
    placed = {
        kind: [corners(box) for box in root.iter(f"{SVG}rect") if kind in box.get("class").split()] for kind in ("stage", "rank")
    }
    assert (len(placed["stage"]), len(placed["rank"])) == (pp, tp * pp)
    for box in placed["rank"]:
        assert sum(within(box, stage) for stage in placed["stage"]) == 1 and within(box, (0, 0, width, height))
    for kind in placed:
        for one, other in combinations(placed[kind], 2):
            assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    small = ElementTree.fromstring(draw_small(mesh, "x"))
    tiles = {corners(box) for box in small.iter(f"{SVG}rect") if "tile" in box.get("class").split()}
    assert len(tiles) == tp * pp == len({box[:2] for box in tiles}) and len({box[0] for box in tiles}) == tp


def test_it_is_told_in_words_too() -> None:
    mesh = make_mesh(CONFIG, 2, 2)
    root = ElementTree.fromstring(draw_layout(mesh, CONFIG, "tp2 x pp2"))
    assert root.get("role") == "img" and root[0].text == "The layout tp2 x pp2: 4 ranks, 2 stages of 2 tensor ranks"
    assert root[1].tag == f"{SVG}desc" and root[1].text == describe(mesh, CONFIG) == (
        "stage 0: word table, layers 0–3. rank 2, layers 0–3, heads 0–3; rank 3, layers 0–3, heads 4–7. "
        "stage 1: layers 4–6, norm, head. rank 0, leader, layers 4–6, heads 0–3; rank 1, layers 4–6, heads 4–7."
    )
    assert ElementTree.fromstring(draw_small(mesh, "tp2 x pp2"))[0].text == "The layout tp2 x pp2"
