"""A sheet for drawing: texts, boxes and lines, and at the end the SVG of them all."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Canvas:
    """Coordinates are pixels from the top left. Any other attribute of SVG goes by name: `font_size`, `fill`, `class_`."""

    def __init__(self, width: float, height: float, style: str = "", **background: object) -> None:
        self.width, self.height = width, height
        self._body = [f"<style>{style}</style>"] if style else []
        self._body.append(f'<rect width="100%" height="100%"{_attributes(background or {"fill": "white"})}/>')

    def text(self, x: float, y: float, words: str, anchor: str = "middle", **more: object) -> None:
        self._body.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{_attributes(more)}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, **more: object) -> None:
        self._body.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{_attributes(more)}/>')

    def line(self, *points: tuple[float, float], **more: object) -> None:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._body.append(f'<polyline points="{corners}" fill="none"{_attributes(more)}/>')

    def shape(self, *points: tuple[float, float], **more: object) -> None:
        """A closed area."""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._body.append(f'<polygon points="{corners}"{_attributes(more)}/>')

    def legend(self, x: float, y: float, entries: Iterable[tuple[str, str]], letter: float = 6.0) -> None:
        """Colours and what they stand for, side by side; `letter`: about how wide one is."""
        for colour, words in entries:
            self.box(x, y, 10, 10, fill=colour)
            self.text(x + 15, y + 9, words, "start", font_size=11)
            x += 40 + letter * len(words)

    def svg(self, title: str = "", description: str = "", **more: object) -> str:
        """`title` and `description` are for readers who do not see it; `more` are attributes of the whole."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}"{_attributes(more)}'
        told = [f"<{tag}>{escape(words)}</{tag}>" for tag, words in (("title", title), ("desc", description)) if words]
        return f'{head} font-family="sans-serif" font-size="12">\n' + "\n".join([*told, *self._body]) + "\n</svg>\n"


def _attributes(given: dict[str, object]) -> str:
    return "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for name, value in given.items())
