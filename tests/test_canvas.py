"""The canvas: what is put on it comes out as an SVG that any reader takes."""

from __future__ import annotations

from xml.etree import ElementTree

from brigade.canvas import Canvas

SVG = "{http://www.w3.org/2000/svg}"


def test_texts_and_attributes_are_escaped() -> None:
    sheet = Canvas(100, 50)
    sheet.text(1, 2, "a <b> & c", "start", fill='"red"', font_size=11, class_="x")
    (text,) = ElementTree.fromstring(sheet.svg()).iter(f"{SVG}text")
    assert text.text == "a <b> & c" and text.get("fill") == '"red"' and text.get("font-size") == "11" and text.get("class") == "x"


def test_shapes_come_in_the_order_of_drawing_on_a_ground() -> None:
    sheet = Canvas(100, 50, ".a{fill:red}", class_="a")
    sheet.box(0, 0, 10, 20, rx=3)
    sheet.line((0, 0), (5, 5), (5, 9), stroke="#123")
    sheet.shape((0, 0), (1, 0), (0, 1))
    root = ElementTree.fromstring(sheet.svg())
    assert root.get("viewBox") == "0 0 100 50"
    assert [element.tag.removeprefix(SVG) for element in root] == ["style", "rect", "rect", "polyline", "polygon"]
    assert root[1].get("class") == "a" and root[1].get("fill") is None
    assert root[3].get("points") == "0.0,0.0 5.0,5.0 5.0,9.0" and root[3].get("fill") == "none"


def test_the_ground_is_white_unless_told_otherwise() -> None:
    assert next(ElementTree.fromstring(Canvas(1, 1).svg()).iter(f"{SVG}rect")).get("fill") == "white"


def test_who_does_not_see_it_is_told_what_it_is() -> None:
    root = ElementTree.fromstring(Canvas(8, 4).svg("a & b", "<two> boxes", role="img", width=8))
    title, description, _ = root
    assert (title.tag, title.text) == (f"{SVG}title", "a & b")
    assert (description.tag, description.text) == (f"{SVG}desc", "<two> boxes")
    assert root.get("role") == "img" and root.get("width") == "8"


def test_a_legend_has_a_box_of_each_colour_and_its_words_beside_it() -> None:
    sheet = Canvas(200, 40)
    sheet.legend(10, 20, [("#123", "one"), ("#456", "another")])
    assert '<rect x="10.0" y="20.0" width="10.0" height="10.0" fill="#123"/>' in sheet.svg()
    assert '<rect x="68.0" y="20.0" width="10.0" height="10.0" fill="#456"/>' in sheet.svg(), "after three letters and a gap"
    assert ">one</text>" in sheet.svg() and '<text x="83.0" y="29.0"' in sheet.svg()
