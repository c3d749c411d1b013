"""`docs/cpu_backend.md` and its picture say what the source and the packed bytes are."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from brigade.backends.cpu import library, matrix
from docs.panel_picture import HEIGHT, KINDS, LINE, PICTURE, WIDTH, Kind, draw

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/cpu_backend.md").read_text()
SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_picture_is_the_one_that_is_drawn() -> None:
    assert PICTURE.read_text() == draw(), "run `python -m docs.panel_picture`, and look at docs/panel.svg"
    assert f"]({PICTURE.name})" in PAGE


def test_all_of_the_picture_is_on_its_sheet() -> None:
    root = ElementTree.fromstring(draw())
    boxes = root.findall(f"{SVG}rect")[1:]  # the first is the sheet
    assert len(boxes) > 100
    for box in boxes:
        left, top, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left >= 0 and left + width <= WIDTH and top >= 0 and top + height <= HEIGHT
    for text in root.findall(f"{SVG}text"):
        left = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        each = {"head": 9.1, "name": 9.1, "title": 9.6, "cell": 7.3}.get(text.attrib["class"], 6.6)  # pixels, of a wide font
        wide = each * len(text.text or "")
        begin = float(text.attrib["x"]) - left * wide
        assert begin >= 0 and begin + wide <= WIDTH, text.text
        assert float(text.attrib["y"]) < HEIGHT


def test_it_can_be_read_by_day_and_by_night() -> None:
    root = ElementTree.fromstring(draw())
    style = root.find(f"{SVG}style").text
    used = {element.attrib["class"] for element in root.iter() if "class" in element.attrib}
    night = "".join(part.split("}}")[0] for part in style.split("@media (prefers-color-scheme: dark)")[1:])
    for kind in used:
        assert f".{kind}" in night, kind


def place(kind: Kind, output: int, k: int) -> tuple[int, int]:
    """The line of a panel and the byte in it that hold the step `k` of an output, as the picture shows it."""
    steps, half, word = len(kind.order), output // 16, output % 16
    at = kind.order.index(k % steps)
    if kind.nibbles:
        return k // steps + (kind.name == "int4-int8"), word * 4 + at  # behind the line of multipliers
    if kind.lines == 1:
        return k // steps, half * 32 + word * 2 + at
    return k // steps * 2 + half, word * 4 + at * 4 // steps


def packed_bytes(name: str, weight_NK: torch.Tensor) -> np.ndarray:
    return matrix.pack(weight_NK, None, name, tree=False).arrays[0].reshape(-1, LINE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_lines_hold_what_the_picture_shows(kind: Kind) -> None:
    if library.find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    n, k = 64, 128
    empty = packed_bytes(kind.name, torch.zeros(n, k))
    for output in (0, 5, 15, 16, 31):
        for step in (0, 1, 2, 3, 6, 65, 127):
            weight_NK = torch.zeros(n, k)
            weight_NK[32 + output, step] = 1.0  # of the second panel
            filled = packed_bytes(kind.name, weight_NK)
            changed = filled != empty
            assert not changed[: len(changed) // 2].any()
            changed = changed[len(changed) // 2 :]
            if kind.name == "int4-int8":
                changed[0] = False  # the multipliers
            line, byte = place(kind, output, step)
            found = [(int(row), int(column)) for row, column in zip(*np.nonzero(changed), strict=True)]
            size = 1 if kind.lines == 1 else 4 // len(kind.order)
            assert found and all(row == line and byte <= column < byte + size for row, column in found), (output, step, found)
            if kind.nibbles:
                turned = int(filled[len(filled) // 2 + line, byte] ^ empty[len(empty) // 2 + line, byte])
                assert (turned & (0x0F if output >= 16 else 0xF0)) == 0


def test_every_file_of_the_kernels_is_explained() -> None:
    for folder, endings in (("csrc", (".cpp", ".inc", ".h")), ("brigade/backends/cpu", (".py",))):
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix not in endings or path.name == "__init__.py":
                continue
            family = re.sub(r"^(path|peak)_.*\.cpp$", r"\1_*.cpp", path.name)
            assert f"`{path.name}`" in PAGE or f"`{family}`" in PAGE, path.name


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its own heading."""
    found = re.search(r"\| .*\n\| --- .*\n((?:\|.*\n)+)", PAGE.split(f"\n## {heading}\n", 1)[1])
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.group(1).splitlines()]


def test_the_tables_have_every_path_and_every_kind() -> None:
    assert tuple(row[0].strip("`") for row in table("Paths")) == library.PATHS
    products = table("Which product each path has")
    assert [row[0].strip("`") for row in products] == [f"{path}" for path in library.PATHS]
    assert all(len(row) == 1 + len(matrix.KINDS) and all(row) for row in products)
    heading = re.search(r"\| path \| (.*) \|\n", PAGE.split("\n## Which product each path has\n", 1)[1])
    assert heading is not None and [name.strip("` ") for name in heading[1].split("|")] == list(matrix.KINDS)


def test_the_bfloat16_order_of_each_path_is_that_of_the_kernels() -> None:
    if library.find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    said = {row[0].strip("`"): row[2].strip("`") for row in table("Paths")}
    for path, name in library.bf16_names().items():
        assert said[path] == name
