"""Telling what a model thinks from what it says, while the answer is still being written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from brigade.serve.tool_grammar import Reasoned

WHITE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The marks around reasoning. Some are special tokens, which detokenization leaves out unless it is told otherwise."""

    opens: str
    closes: str

    def is_open(self, prompt: str) -> bool:
        """Whether the prompt ends inside reasoning, so that the answer begins there."""
        return prompt.rstrip().endswith(self.opens)

    def is_over(self, prompt: str) -> bool:
        """Whether the prompt ends behind reasoning: a template writes an empty one where thinking is turned off."""
        return prompt.rstrip().endswith(self.closes)

    def splitter(self, prompt: str) -> ReasoningSplitter:
        return ReasoningSplitter(self, self.is_open(prompt))

    def before_constraint(self, prompt: str, special_tokens: Mapping[str, int]) -> Reasoned | None:
        """What stands before the part of an answer that a constraint is about; None where the answer has no reasoning."""
        if self.is_over(prompt):
            return None
        special = {mark: i for mark, i in special_tokens.items() if mark in (self.opens, self.closes)}
        return Reasoned(self.closes, "" if self.is_open(prompt) else self.opens, special)


MARKS = (ReasoningMarks("<think>", "</think>"), ReasoningMarks("[THINK]", "[/THINK]"))


def detect_reasoning(template: str) -> ReasoningMarks | None:
    """The marks that a chat template names; None where it names none, and answers are content alone. The closing mark is enough:
    some templates only cut away old reasoning by it."""
    return next((marks for marks in MARKS if marks.closes in template), None)


@dataclass(frozen=True, slots=True)
class Piece:
    kind: Literal["reasoning", "content"]
    text: str


class ReasoningSplitter:
    """Reasoning stands at the beginning of an answer or nowhere: from the opening mark, or from the first character where the
    prompt opened it, to the first closing mark. A mark that comes later is content.

    White space around both parts belongs to the marks and is dropped, so text is held back only where it is white space or the
    beginning of a mark. An answer that never opens reasoning is content to the last bit; one that never closes it is all
    reasoning.
    """

    def __init__(self, marks: ReasoningMarks, is_open: bool = False) -> None:
        self._marks = marks
        # "before": nothing but white space came; "inside"; "behind": white space after the mark; "content"
        self._state = "inside" if is_open else "before"
        self._may_open = True  # a model may write the opening mark again that the prompt has written
        self._space = self._part = ""
        self._said = False

    @property
    def is_inside(self) -> bool:
        """Whether the text that comes next is reasoning, as far as is known."""
        return self._state == "inside"

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        for place, char in enumerate(text):
            if self._state == "content":
                pieces.append(Piece("content", text[place:]))
                break
            self._push(char, pieces)
        return _joined(pieces)

    def finish(self) -> list[Piece]:
        """Nothing more will come: what was held is what it stands in, and white space at the end of reasoning is none."""
        pieces: list[Piece] = []
        held = self._space + self._part
        if self._state == "inside" and self._part:
            self._reason(self._part, pieces)
        elif self._state == "before" and held:
            pieces.append(Piece("content", held))
        self._space = self._part = ""
        self._state = "content"
        return pieces

    def _push(self, char: str, pieces: list[Piece]) -> None:
        match self._state:
            case "before":
                self._before(char, pieces)
            case "inside":
                self._inside(char, pieces)
            case "behind":
                if char not in WHITE:
                    self._state = "content"
                    pieces.append(Piece("content", char))
            case "content":
                pieces.append(Piece("content", char))

    def _before(self, char: str, pieces: list[Piece]) -> None:
        if not self._part and char in WHITE:
            self._space += char
            return
        self._part += char
        if self._part == self._marks.opens:
            self._state, self._may_open = "inside", False
            self._space = self._part = ""
        elif not self._marks.opens.startswith(self._part):
            self._state = "content"
            pieces.append(Piece("content", self._space + self._part))
            self._space = self._part = ""

    def _inside(self, char: str, pieces: list[Piece]) -> None:
        if not self._part and char in WHITE:
            self._space += char
            return
        self._part += char
        marks = (self._marks.closes, *((self._marks.opens,) if self._may_open and not self._said else ()))
        if self._part == self._marks.closes:
            self._state, self._space, self._part = "behind", "", ""
        elif self._part in marks:
            self._may_open, self._space, self._part = False, "", ""
        elif not any(mark.startswith(self._part) for mark in marks):
            first, again, self._part = self._part[0], self._part[1:], ""
            self._reason(first, pieces)
            for char in again:  # it may be the beginning of a mark
                self._push(char, pieces)

    def _reason(self, text: str, pieces: list[Piece]) -> None:
        pieces.append(Piece("reasoning", self._space + text if self._said else text))
        self._said, self._space = True, ""


def _joined(pieces: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].kind == piece.kind:
            found[-1] = Piece(piece.kind, found[-1].text + piece.text)
        else:
            found.append(piece)
    return found
