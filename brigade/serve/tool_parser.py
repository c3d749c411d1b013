"""Finding the tool calls in an answer while it is still being written.

A parser reads one character at a time, so its answer cannot depend on how the text was cut. Three rules:

- Text is held back only as long as it can still become a call: white space before a marker, a part of a marker, and what stands
  between a marker and the first character of the arguments. From there on arguments are passed on as they come. (Where a model
  writes the arguments before the name, or as a text inside a text, they are held until they are whole.)
- What cannot be read as a call is content, word for word, its markers included: JSON that is none, a function that is not among
  the tools, a call that ends before its arguments began. A call that breaks later keeps what was said of it: it ends with
  `whole=False`, and what follows is content.
- Nothing is lost, except for the format's own marks and the white space around calls. What still belongs to a call that was cut
  off, such as half of its closing mark, is dropped with it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any, NoReturn

from brigade.serve.json_scanner import JSONScanner, NotJSON, object_in
from brigade.serve.tool_events import CallArguments, CallBegan, CallEnded, Content, Event, joined
from brigade.serve.tools import Tool

WHITE = " \t\n\r"
KEYS = ("name", "arguments", "parameters", "id", "type", "index")  # of a call that is written as a JSON object

Reading = Generator[None, str | None, Any]  # asks for the next character with a bare `yield`; None is the end of the answer


class _Broken(Exception):
    """This is no call, or no longer one."""


class _Cut(Exception):
    """The answer is over."""


class ToolParser:
    """Reads one answer. A format is a subclass with `_answer`, which reads until the answer is over.

    Without `parallel` the first call ends the answer: `is_done` turns true, what is fed later is dropped, and the caller should
    stop generating.
    """

    def __init__(self, tools: Iterable[Tool], new_id: Callable[[], str], parallel: bool = True) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._new_id, self._parallel = new_id, parallel
        self.is_done = False
        self.num_calls = 0
        self._events: list[Event] = []
        self._said = False  # any content so far
        self._held: list[str] = []  # characters that were read and are not accounted for
        self._again: deque[str] = deque()  # characters to be read once more
        self._open: int | None = None  # the call whose arguments are being read
        self._whole = False  # its arguments are
        self._run = self._read()
        next(self._run)

    def feed(self, text: str) -> list[Event]:
        for char in text:
            if self.is_done:
                break
            self._run.send(char)
        return self._taken()

    def finish(self) -> list[Event]:
        """Nothing more will come."""
        if not self.is_done:
            with suppress(StopIteration):
                self._run.send(None)
        self.is_done = True
        return self._taken()

    def _answer(self) -> Reading:
        raise NotImplementedError

    def _read(self) -> Reading:
        try:
            yield from self._answer()
        except _Cut:
            if self._open is not None:
                self._end_call()
            elif self.num_calls == 0 or "".join(self._held).strip():
                self._say("".join(self._held))

    def _taken(self) -> list[Event]:
        events, self._events = joined(self._events), []
        return events

    # Reading: each of these is used with `yield from`.

    def _char(self) -> Generator[None, str | None, str]:
        char = self._again.popleft() if self._again else (yield)
        if char is None:
            raise _Cut
        self._held.append(char)
        return char

    def _solid(self) -> Generator[None, str | None, str]:
        """The next character that is no white space."""
        while (char := (yield from self._char())) in WHITE:
            pass
        return char

    def _peek(self) -> Generator[None, str | None, str]:
        char = yield from self._solid()
        self._back(1)
        return char

    def _back(self, count: int) -> None:
        """Read the last characters again."""
        self._again.extendleft(reversed(self._held[len(self._held) - count :]))
        del self._held[len(self._held) - count :]

    def _broken(self, back: int = 1) -> NoReturn:
        self._back(back)
        raise _Broken

    def _text(self, markers: tuple[str, ...]) -> Generator[None, str | None, str]:
        """Content until one of the markers, which is returned; with the white space before it, it stays held."""
        self._held.clear()
        space = part = ""
        while True:
            try:
                char = yield from self._char()
            except _Cut:
                self._held.clear()
                if part or not self.num_calls:
                    self._say_text(space, part)
                raise
            if not part and char in WHITE:
                space += char
                continue
            part += char
            if part in markers:
                return part
            if not any(marker.startswith(part) for marker in markers):
                self._back(len(part) - 1)
                self._held.clear()
                self._say_text(space, part[0])
                space = part = ""

    def _one_of(self, words: Iterable[str], end: str) -> Generator[None, str | None, str]:
        """One of the words, and then `end`. It breaks at the first character that leads to none of them."""
        wanted = [word + end for word in words]
        got = ""
        while got not in wanted:
            got += yield from self._char()
            if not any(one.startswith(got) for one in wanted):
                self._broken()
        return got[: len(got) - len(end)]

    def _mark(self, *marks: str) -> Generator[None, str | None, str]:
        """White space, and then one of the marks."""
        yield from self._peek()
        return (yield from self._one_of(marks, ""))

    def _closing(self, mark: str) -> Reading:
        """What ends a call that is whole already. Where something else comes, that is read as text."""
        try:
            yield from self._mark(mark)
        except _Broken:
            self._back(len(self._held))
            raise
        except _Cut:
            self._held.clear()
            raise
        self._held.clear()

    def _attempt(self, reading: Reading) -> Reading:
        """Read what may be one or several calls; what is none becomes content."""
        try:
            yield from reading
        except _Broken:
            if self._open is not None:
                self._end_call()
            self._say("".join(self._held))
        self._held.clear()

    def _json(self, say: Callable[[str], None]) -> Reading:
        """One JSON value, piece by piece."""
        scanner = JSONScanner()
        while not scanner.is_done:
            char = yield from self._char()
            try:
                text = scanner.push(char)
            except NotJSON:
                self._broken()
            if text is None:
                self._back(1)
            else:
                say(text)

    def _json_call(self) -> Reading:
        """`{"name": ..., "arguments": {...}}`, its keys in any order; other keys than those of `KEYS` make it no call."""
        yield from self._mark("{")
        name: str | None = None
        arguments = "{}"
        seen = set()
        while True:
            yield from self._mark('"')
            key = yield from self._one_of(KEYS, '"')
            key = "arguments" if key == "parameters" else key
            if key in seen:
                self._broken()
            seen.add(key)
            yield from self._mark(":")
            if key == "name":
                yield from self._mark('"')
                name = yield from self._one_of(self._tools, '"')
            elif key == "arguments":
                arguments = yield from self._json_arguments(name)
            else:
                yield from self._json(lambda _: None)
            if (yield from self._mark(",", "}")) == "}":
                break
        if name is None:
            self._broken()
        if self._open is None:
            self._begin_call(name)
            self._argue(arguments)
        self._held.clear()
        self._end_call(whole=True)

    def _json_arguments(self, name: str | None) -> Generator[None, str | None, str]:
        """Said at once where the name is known; otherwise returned."""
        first = yield from self._peek()
        if first == "{" and name is not None:
            yield from self._object_arguments(name)
            return ""
        pieces: list[str] = []
        yield from self._json(pieces.append)
        text = "".join(pieces)
        if first == "{":
            return text
        if first == "n":
            return "{}"
        inner = json.loads(text) if first == '"' else ""  # a text that holds the JSON text of an object
        if object_in(inner) is None or any("\ud800" <= char <= "\udfff" for char in inner):
            self._broken()
        return inner

    def _object_arguments(self, name: str) -> Reading:
        """An object, said as it comes. The call stays open: what follows may belong to it."""
        if (yield from self._peek()) != "{":
            yield from self._char()
            self._broken()
        self._begin_call(name)
        yield from self._json(self._argue)
        self._whole = True

    # Saying.

    def _emit(self, event: Event) -> None:
        if not self.is_done:
            self._events.append(event)

    def _say(self, text: str) -> None:
        if text:
            self._said = True
            self._emit(Content(text))

    def _say_text(self, space: str, text: str) -> None:
        """White space between a call and the first content is none of either."""
        self._say(text if self.num_calls and not self._said else space + text)

    def _begin_call(self, name: str) -> None:
        self._held.clear()
        self._open, self._whole = self.num_calls, False
        self.num_calls += 1
        self._emit(CallBegan(self._open, self._new_id(), name))

    def _argue(self, text: str) -> None:
        assert self._open is not None
        self._held.clear()
        self._emit(CallArguments(self._open, text))

    def _end_call(self, whole: bool = False) -> None:
        assert self._open is not None
        self._emit(CallEnded(self._open, whole or self._whole))
        self._open = None
        self.is_done = self.is_done or not self._parallel
