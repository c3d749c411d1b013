"""Constraints as grammars over one model's tokens, compiled by llguidance. Each answer has a grammar of its own: copies would share
what the lexer has built, which counts towards its limits, and so one answer's end would depend on others.

A grammar is compiled by the thread that asks for it, never by the engine's; the compiler lets other threads run meanwhile. Its
limits are counts of work, not of time, so that a grammar that one replica takes is taken by every other. The one limit of time is
far away from what the counts let through, and holds for an answer that has not begun: one that goes on from another engine is
compiled however long that takes here. The compiler recurses once for each rule that another leads to: it runs on
a stack that is large enough for the longest text, since what it does at the end of a stack is to end the process.
"""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from brigade.engine.constraint.lark import check_lark
from brigade.engine.constraint.matcher import Matcher
from brigade.errors import RequestError, in_one_line
from brigade.tokenizer import Tokenizer
from brigade.tokenizer.tokenizer import PANIC

MOST_SECONDS = 30.0  # that a new answer waits for its grammar: 200 times what the slowest takes that the counts let through
MOST_OVERDUE = 2  # grammars that nobody waits for any more and that are still being compiled: no thread can be ended from outside
STACK = 256 << 20  # address space of a compiling thread; it fills what it needs
MOST_ERROR = 300  # characters of what the compiler says
_PICTURE = re.compile(r"\s*(\d+ \|.*|\^*|<non-verbose/>)")

# All of them, so that another version's defaults change nothing: a grammar at a limit must end the same way everywhere.
LIMITS = {
    "max_items_in_row": 2_000, "initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "step_max_items": 10_000,
    "max_lexer_states": 50_000, "max_grammar_size": 100_000, "precompute_large_lexemes": True, "verbose_errors": False,
}  # fmt: skip

# Tokens are allowed by their bytes alone. Without this, text that is forced could come in the tokenizer's own cut of it alone.
_OPTIONS = '\n%llguidance {"no_forcing": true}'
# Between the parts of JSON: nothing, a space, or a line break and what indents the next line. Blanks without end are no answer.
_JSON_OPTIONS = {"whitespace_pattern": " |\\n[ \\t]{0,32}"}


class Vocabulary:
    """What each token of a model adds to a text, as llguidance reads it. The end of the text is a token of its own behind those of
    the model, since a model may have several that end it, or none."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        special = tokenizer.special_ids
        texts = [tokenizer.token_bytes(token) for token in range(size)]
        self.size = size
        # llguidance marks by this byte what is no text; in UTF-8 it does not occur.
        self.tokens = [b"" if 0xFF in text else text for text in texts] + [b"<end of text>"]
        self.eos_token_id = size
        self.special_token_ids = [*sorted(token for token in special if token < size), size]  # in no text: named by their ids alone

    @property
    def speakable(self) -> list[bool]:
        """Of each of the model's tokens, whether it adds something to a text."""
        return [bool(text) for text in self.tokens[: self.size]]

    def __call__(self, text: str) -> list[int]:
        raise AssertionError("no grammar here asks for the tokens of a text")


class Grammars:
    """The grammars of one tokenizer and one size of vocabulary. Any thread may ask."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        if not tokenizer.adds_bytes:
            raise RequestError(
                "a constraint needs to know what each token adds to the text, which this model's tokenizer decides from its "
                "neighbours; drop constraint",
                "constraint",
            )
        vocabulary = Vocabulary(tokenizer, vocab_size)
        self._speakable, self._special = vocabulary.speakable, frozenset(vocabulary.special_token_ids[:-1])
        self._tokenizer = LLTokenizer(vocabulary)

    def matcher(self, constraint: Mapping[str, Any], goes_on: bool = False) -> Matcher:
        """At the start of an answer. Refused where it cannot be compiled, or allows no answer. `goes_on`: some of the answer was
        delivered by another engine, so no time ends it here."""
        text, kind = grammar_text(constraint), next(iter(constraint))
        if kind == "grammar":
            self._check_special(constraint["grammar"])
        limits = LLParserLimits(**LIMITS)
        inner = _on_a_large_stack(lambda: LLMatcher(self._tokenizer, text, log_level=0, limits=limits), kind, goes_on)
        if inner.is_error():
            raise RequestError(f"constraint {kind} cannot be compiled: {_reason(inner.get_error())}")
        matcher = Matcher(inner, self._speakable)
        if matcher.failure is not None:
            raise RequestError(f"the constraint allows no answer: {matcher.failure}", "constraint")
        if matcher.ended_at == 0:
            raise RequestError("the constraint allows nothing but an empty answer; drop it, or allow some text", "constraint")
        return matcher

    def _check_special(self, grammar: str) -> None:
        for token in check_lark(grammar):
            if token not in self._special:
                raise RequestError(f"constraint grammar names <[{token}]>, which is no special token of this model; drop it")


_OF_TOKENIZERS: weakref.WeakKeyDictionary[Tokenizer, dict[int, Grammars]] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()
_OVERDUE: list[threading.Thread] = []


def grammars_of(tokenizer: Tokenizer, vocab_size: int | None) -> Grammars:
    """Made once for a tokenizer, whatever the number of engines. Ids up to `vocab_size` that it does not know are never allowed."""
    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    with _MAKING:
        made = _OF_TOKENIZERS.setdefault(tokenizer, {})
        if size not in made:
            made[size] = Grammars(tokenizer, size)
        return made[size]


def grammar_text(constraint: Mapping[str, Any]) -> str:
    """As llguidance reads it. The options stand at the end, so that the lines of a grammar keep their numbers."""
    ((kind, value),) = constraint.items()
    if kind == "json_object":
        lark = _json_rule({"type": "object"})
    elif kind == "json_schema":
        lark = _json_rule(json.loads(value))
    elif kind == "choice":
        lark = f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, value))}"
    elif kind == "regex":
        lark = f"start: /{_escaped(value)}/"
    else:
        lark = value
    return LLMatcher.grammar_from_lark(lark + _OPTIONS)


def _json_rule(schema: dict[str, Any]) -> str:
    return f"start: %json {json.dumps({'x-guidance': _JSON_OPTIONS, **schema})}"


def _escaped(regex: str) -> str:
    """Between slashes, on one line: the same expression."""
    found, chars = [], iter(regex)
    for char in chars:
        if char == "\\":
            after = next(chars, None)
            if after is None:
                raise RequestError(f"constraint regex ends with a single backslash, at {len(regex) - 1}; double or drop it")
            found.append("\\n" if after == "\n" else char + after)
        else:
            found.append({"/": "\\/", "\n": "\\n"}.get(char, char))
    return "".join(found)


def _on_a_large_stack(work: Any, kind: str, goes_on: bool = False) -> LLMatcher:
    done: SimpleQueue[Any] = SimpleQueue()

    def run() -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    thread = threading.Thread(target=run, name="brigade-grammar", daemon=True)
    with _MAKING:
        _OVERDUE[:] = [one for one in _OVERDUE if one.is_alive()]
        if len(_OVERDUE) >= MOST_OVERDUE and not goes_on:
            raise RequestError(f"{len(_OVERDUE)} constraints of others take too long to compile; try again later", kind="busy")
        size = threading.stack_size(STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(size)
    try:
        found = done.get(timeout=None if goes_on else MOST_SECONDS)
    except Empty:
        _OVERDUE.append(thread)
        raise RequestError(
            f"constraint {kind} was not compiled within {MOST_SECONDS:g} seconds; make it smaller or simpler"
        ) from None
    if isinstance(found, BaseException):
        if isinstance(found, Exception) or type(found).__name__ == PANIC:
            raise RequestError(f"constraint {kind} cannot be compiled: {_reason(in_one_line(found))}") from found
        raise found
    return found


def _reason(said: str) -> str:
    """What the compiler says and where, without its picture of the place."""
    lines = said.split("<")[0].splitlines() if said.startswith("panic") else said.splitlines()
    words = " ".join(" ".join(line for line in lines if not _PICTURE.fullmatch(line)).split())
    for wrapping in ("at 1(8): failed to compile JSON schema: ", "at 1(8): invalid regex "):  # places in what was written here
        words = words.removeprefix(wrapping)
    return words if len(words) <= MOST_ERROR else words[: MOST_ERROR - 3] + "..."
