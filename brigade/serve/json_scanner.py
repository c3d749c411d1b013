"""Reading one JSON value character by character, so that it can be passed on before it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_SPACE = " \t\n\r"
_DIGITS = "0123456789"
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}
# What may come next inside a number, and whether it may end there.
_NUMBER = {
    "-": ({"0": "zero", **dict.fromkeys("123456789", "int")}, False),
    "zero": ({".": "point", "e": "e", "E": "e"}, True),
    "int": ({**dict.fromkeys(_DIGITS, "int"), ".": "point", "e": "e", "E": "e"}, True),
    "point": (dict.fromkeys(_DIGITS, "fraction"), False),
    "fraction": ({**dict.fromkeys(_DIGITS, "fraction"), "e": "e", "E": "e"}, True),
    "e": ({**dict.fromkeys(_DIGITS, "exponent"), "+": "sign", "-": "sign"}, False),
    "sign": (dict.fromkeys(_DIGITS, "exponent"), False),
    "exponent": (dict.fromkeys(_DIGITS, "exponent"), True),
}


class NotJSON(ValueError):
    """This character cannot come here."""


class JSONScanner:
    """One value. `push` gives the text to pass on for a character, raises `NotJSON`, or returns None where the value had ended
    before this character, as only a number can. `is_done` says that the value is whole.

    What is passed on is what came in, with one exception: a line break or another control character inside a string, which models
    write and JSON forbids, becomes its escape. Nesting has no limit here, and takes memory but no stack.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._open: list[str] = []  # "{" and "[", from the outermost
        self._next: Callable[[str], str | None] = self._value
        self._rest = ""  # of a literal
        self._hex = 0  # digits still to come of \uXXXX
        self._number = ""
        self._is_key = False

    def push(self, char: str) -> str | None:
        return self._next(char)

    def _value(self, char: str) -> str:
        if char in _SPACE:
            return char
        if char in "{[":
            self._open.append(char)
            self._next = self._first_key if char == "{" else self._first_item
        elif char == '"':
            self._is_key, self._next = False, self._string
        elif char in _LITERALS:
            self._rest, self._next = _LITERALS[char], self._literal
        elif char == "-" or char in _DIGITS:
            self._number = {"-": "-", "0": "zero"}.get(char, "int")
            self._next = self._in_number
        else:
            raise NotJSON(char)
        return char

    def _first_key(self, char: str) -> str:
        return self._close(char) if char == "}" else self._key(char)

    def _first_item(self, char: str) -> str:
        return self._close(char) if char == "]" else self._value(char)

    def _key(self, char: str) -> str:
        if char == '"':
            self._is_key, self._next = True, self._string
        elif char not in _SPACE:
            raise NotJSON(char)
        return char

    def _colon(self, char: str) -> str:
        if char == ":":
            self._next = self._value
        elif char not in _SPACE:
            raise NotJSON(char)
        return char

    def _after_value(self, char: str) -> str:
        if char == ",":
            self._next = self._key if self._open[-1] == "{" else self._value
        elif char in "}]":
            return self._close(char)
        elif char not in _SPACE:
            raise NotJSON(char)
        return char

    def _close(self, char: str) -> str:
        if self._open.pop() + char not in ("{}", "[]"):
            raise NotJSON(char)
        self._ended()
        return char

    def _string(self, char: str) -> str:
        if char == '"':
            if self._is_key:
                self._next = self._colon
            else:
                self._ended()
        elif char == "\\":
            self._next = self._escape
        elif char < " ":
            return json.dumps(char)[1:-1]
        return char

    def _escape(self, char: str) -> str:
        if char == "u":
            self._hex, self._next = 4, self._hex_digit
        elif char in '"\\/bfnrt':
            self._next = self._string
        else:
            raise NotJSON(char)
        return char

    def _hex_digit(self, char: str) -> str:
        if char not in "0123456789abcdefABCDEF":
            raise NotJSON(char)
        self._hex -= 1
        if not self._hex:
            self._next = self._string
        return char

    def _literal(self, char: str) -> str:
        if char != self._rest[0]:
            raise NotJSON(char)
        self._rest = self._rest[1:]
        if not self._rest:
            self._ended()
        return char

    def _in_number(self, char: str) -> str | None:
        follows, may_end = _NUMBER[self._number]
        if char in follows:
            self._number = follows[char]
            return char
        if not may_end:
            raise NotJSON(char)
        self._ended()
        return None if self.is_done else self._after_value(char)

    def _ended(self) -> None:
        self.is_done = not self._open
        self._next = self._after_value


def object_in(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None for any other text."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_constant(name: str) -> Any:
    raise NotJSON(name)
