"""The picture of the rooms: it shows the imports of the source as they are, and nothing in it lies on anything else."""

from __future__ import annotations

from itertools import combinations, pairwise
from xml.etree import ElementTree

from docs.rooms import FLOORS, ROOMS, arrows, without_implied
from docs.rooms_picture import COLUMN, GROUND, LEGEND, PICTURE, SIDE, boxes, draw, drawn_arrows, lines


def test_the_committed_picture_is_of_this_source() -> None:
    assert PICTURE.read_text() == draw(), "imports or rooms changed: run `python -m docs.rooms_picture`, and look at docs/rooms.svg"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    chain = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert without_implied(chain) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert without_implied({"a": {"b", "c"}, "b": set(), "c": set()}) == {"a": {"b", "c"}, "b": set(), "c": set()}


def test_the_arrows_say_all_that_the_source_does() -> None:
    drawn, on_ground = drawn_arrows(), {room.name for room in ROOMS if room.floor is None}

    def reached(name: str) -> set[str]:
        return set().union(*({target} | reached(target) for target in drawn[name]))

    for name in set(FLOORS) - on_ground:
        used = {GROUND if target in on_ground else target for target in arrows()[name]}
        assert used and used <= reached(name)
        assert drawn[name] <= used


def test_every_room_has_a_place_of_its_own() -> None:
    placed = boxes()
    assert set(placed) - {GROUND} | {room.name for room in ROOMS if room.floor is None} == set(FLOORS)
    for one, other in combinations(placed.values(), 2):
        apart = one.right < other.left or other.right < one.left or one.bottom < other.top or other.bottom < one.top
        assert apart, (one, other)


def test_words_stay_in_their_room() -> None:
    for box in boxes().values():
        width = box.right - box.left
        assert 9.1 * len(box.label) < width, box  # 15 pixels, fixed width
        assert 6.6 * len(box.words) < width, box  # 12 pixels, a wide sans-serif
    assert 6.6 * len(LEGEND) < COLUMN * 4 + 2 * SIDE


def test_arrows_go_down_and_cross_no_room() -> None:
    placed = boxes()
    for ends, way in lines().items():
        source, target = (placed[name] for name in ends)
        (x, y), (to_x, to_y) = way[0], way[-1]
        assert source.left < x < source.right and y == source.bottom and target.left < to_x < target.right and to_y == target.top
        for (x1, y1), (x2, y2) in pairwise(way):
            assert (x1 == x2 and y1 < y2) or y1 == y2
            for name, box in placed.items():
                beside = max(x1, x2) < box.left or min(x1, x2) > box.right or max(y1, y2) < box.top or min(y1, y2) > box.bottom
                assert beside or name in ends, f"the arrow from {ends[0]} to {ends[1]} runs through {name}"


def test_no_two_arrows_share_a_line() -> None:
    for (one, way), (other, beside) in combinations(lines().items(), 2):
        for (x1, y1), (x2, y2) in pairwise(way):
            for (u1, v1), (u2, v2) in pairwise(beside):
                upright = x1 == x2 == u1 == u2 and max(y1, v1) < min(y2, v2)
                level = y1 == y2 == v1 == v2 and max(min(x1, x2), min(u1, u2)) < min(max(x1, x2), max(u1, u2))
                assert not upright and not level, (one, other)


def test_it_can_be_read_by_day_and_by_night() -> None:
    root = ElementTree.fromstring(draw())
    style = root.find("{http://www.w3.org/2000/svg}style").text
    day, night = style.split("@media (prefers-color-scheme: dark)")
    for kind in ("paper", "house", "room", "door", "name", "words", "arrow", "tip", "legend", "title"):
        assert f".{kind}" in day and f".{kind}" in night
    shown = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {box.label for box in boxes().values()} | {box.words for box in boxes().values()} <= shown
