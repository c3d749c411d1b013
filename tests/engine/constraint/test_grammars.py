"""Grammars are compiled by whoever asks, within limits; and whatever the text, nothing crashes and nothing hangs."""

from __future__ import annotations

import json
import random
import threading
import time

import numpy as np
import pytest
import tokenizers

from brigade.checkpoint.load import EMBEDDED
from brigade.engine.constraint import grammars as room
from brigade.engine.constraint import lark
from brigade.engine.constraint.given import MOST_CHARACTERS, checked_constraint
from brigade.engine.constraint.grammars import Grammars, grammar_text, grammars_of
from brigade.engine.constraint.schema import MOST_PARTS
from brigade.errors import RequestError
from brigade.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_folder(EMBEDDED)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TOKENIZER, TOKENIZER.vocab_size)


BAD = {
    "a line": ({"grammar": 'start: "a" c\nc: "b" d\n'}, "constraint grammar cannot be compiled", 'at 2(4): unknown name: "d"'),
    "a bracket": ({"regex": "a["}, "constraint regex cannot be compiled", "unclosed character class"),
    "look-around": ({"regex": "(?=a)b"}, "constraint regex cannot be compiled", "look-around"),
    "a backslash": ({"regex": "a\\"}, "ends with a single backslash, at 1", ""),
    "no such rule": ({"grammar": 'start: "a"\n  | b\n'}, "constraint grammar cannot be compiled", 'unknown name: "b"'),
    "no syntax": ({"grammar": 'start: "a"\nx: =\n'}, "constraint grammar cannot be compiled", "2(4)"),
    "no such special token": ({"grammar": "start: /a/ <[5]>"}, "<[5]>, which is no special token", ""),
    "no start": ({"grammar": 'x: "a"'}, "constraint grammar cannot be compiled", "no start rule"),
    "no such type": ({"json_schema": {"type": "text"}}, 'json_schema has the type "text" at #', "the types are string, number"),
    "no such type of several": ({"json_schema": {"items": {"type": ["null", "int"]}}}, 'type "int" at #/items', "integer, bool"),
    "no such format": ({"json_schema": {"format": "colour"}}, "constraint json_schema cannot", "Unknown format: colour"),
    "no value": ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "cannot be compiled", "minimum (3) is greater"),
    "overlapping oneOf": ({"json_schema": {"oneOf": [{"type": "string"}, {"const": "a"}]}}, "cannot be compiled", "oneOf"),
    "no answer": ({"grammar": "start: start"}, "the constraint allows no answer", "no token of this model can follow"),
    "an empty answer": ({"regex": "()"}, "allows nothing but an empty answer", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compiled_is_refused_with_its_place(grammars: Grammars, case: str) -> None:
    given, *words = BAD[case]
    with pytest.raises(RequestError) as refused:
        grammars.matcher(checked_constraint(given))
    text = str(refused.value)
    assert all(word in text for word in words) and "\n" not in text and len(text) < 400


def test_each_answer_has_a_lexer_of_its_own(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes to the compiler's limits ends itself alone: what it has built counts for no other of the same grammar."""
    monkeypatch.setitem(room.LIMITS, "max_lexer_states", 400)
    constraint = {"regex": "([a-z]{1,30}x|[a-m]{5,40}y){3,60}"}
    one, other = grammars.matcher(constraint), grammars.matcher(constraint)
    said: list[int] = []
    while one.failure is None and len(said) < 300:
        said.append(int(np.flatnonzero(one._allowed)[7 * len(said) % 50]))
        one.follow(said)
    assert "too many states" in (one.failure or "") and other.failure is None
    other.follow(said[:-1])
    assert other.failure is None


def test_one_tokenizer_has_one_set_of_grammars() -> None:
    assert grammars_of(TOKENIZER, None) is grammars_of(TOKENIZER, TOKENIZER.vocab_size) is not grammars_of(TOKENIZER, 5000)
    assert grammars_of(Tokenizer.from_folder(EMBEDDED), None) is not grammars_of(TOKENIZER, None)


def test_a_grammar_that_takes_too_long_is_refused_and_stalls_nobody(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SECONDS", 0.2)
    held, refused = threading.Event(), []

    def ask() -> None:
        try:
            room._on_a_large_stack(held.wait, "regex")
        except RequestError as error:
            refused.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert grammars.matcher({"regex": "meanwhile"}).ended_at is None
    thread.join()
    held.set()
    assert not [one for one in room._OVERDUE if one.join(5)]
    assert refused == ["constraint regex was not compiled within 0.2 seconds; make it smaller or simpler"]


def test_too_many_that_take_too_long_are_not_joined_by_another(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_SECONDS", 0.05)
    held = threading.Event()
    for _ in range(room.MOST_OVERDUE):
        with pytest.raises(RequestError, match="was not compiled within"):
            room._on_a_large_stack(held.wait, "regex")
    with pytest.raises(RequestError, match="2 constraints of others take too long to compile; try again later"):
        grammars.matcher({"regex": "unknown"})
    held.set()
    for one in list(room._OVERDUE):
        one.join(5)
    monkeypatch.setattr(room, "MOST_SECONDS", 10.0)
    grammars.matcher({"regex": "unknown"})


def test_an_answer_that_has_begun_is_ended_by_no_time(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on where the compiler is slow, and where others take too long."""
    monkeypatch.setattr(room, "MOST_SECONDS", 0.05)
    compile_, held = room.LLMatcher, threading.Event()

    class Slow:
        grammar_from_lark = staticmethod(compile_.grammar_from_lark)

        def __new__(cls, *given, **named):
            time.sleep(0.3)
            return compile_(*given, **named)

    monkeypatch.setattr(room, "LLMatcher", Slow)
    with pytest.raises(RequestError, match="was not compiled within 0.05 seconds"):
        grammars.matcher({"regex": "ab"})
    for _ in range(room.MOST_OVERDUE - 1):
        with pytest.raises(RequestError, match="was not compiled within"):
            room._on_a_large_stack(held.wait, "regex")
    try:
        assert grammars.matcher({"regex": "ab"}, goes_on=True).ended_at is None
    finally:
        held.set()
        for one in list(room._OVERDUE):
            one.join(5)


def test_a_grammar_is_walked_through_once(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever checks it, and whoever compiles it for two answers."""
    walks, walk = [], lark._syntax
    monkeypatch.setattr(lark, "_syntax", lambda text: (walks.append(text), walk(text))[1])
    given = {"grammar": 'start: "once" /[0-9]+/'}
    checked = checked_constraint(given)
    grammars.matcher(checked)
    grammars.matcher(checked)
    assert walks == [given["grammar"]]


def test_other_threads_keep_their_stack() -> None:
    before = threading.stack_size()
    grammars_of(TOKENIZER, None).matcher({"regex": "stack"})
    assert threading.stack_size() == before


def test_many_threads_may_ask_at_once(grammars: Grammars) -> None:
    found: list[int] = []

    def ask() -> None:
        for number in range(20):
            grammars.matcher({"regex": f"t{number}x+"})
            found.append(number)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160


def filled(start: str, line, most: int = MOST_CHARACTERS) -> str:
    """A grammar as long as it may be."""
    text, number = [start], 0
    left = most - len(start) - 40
    while (left := left - len(one := line(number)) - 1) > 0:
        text.append(one)
        number += 1
    return "\n".join([*text, line(number).split(":")[0] + ': "a"'])


REFUSED = {
    "terminals that double": ({"grammar": filled("start: R0", lambda i: f"R{i}: R{i + 1} R{i + 1}")}, "over 200000 pieces"),
    "terminals in terminals": ({"grammar": f"start: A\nA: {'B ' * 2000}\nB: {'C ' * 2000}\nC: /x/"}, "pieces in its"),
    "all on one line": ({"grammar": f"start: A A: {'B ' * 2000} B: {'C ' * 2000} C: /x/"}, "over 200000 pieces in its terminals"),
    "a long chain of terminals": ({"grammar": filled("start: R0", lambda i: f'R{i}: "x" R{i + 1}?')}, "over 200000 pieces"),
    "alternatives": ({"grammar": f"start: {'a | ' * 600} a\na: /x/"}, "601 alternatives in the rule 'start'; 500 are allowed"),
    "a long rule": ({"grammar": f"start: {'a ' * 5001}\na: /x/"}, "5002 pieces in its rules; 5000 are allowed"),
    "combined terminals": ({"grammar": "start: A\nA: " + " & ".join(["/(?s:.)*ab/"] * 40)}, "uses & and ~ 39 times; 6 are allowed"),
    "combined patterns": (
        {"json_schema": {"allOf": [{"type": "string", "pattern": f"a{{0,{i}}}b"} for i in range(60)]}}, "60 times pattern, and",
    ),
    "patterns in a chain": (
        {"json_schema": {"$defs": {f"d{i}": {"pattern": "ab", "$ref": f"#/$defs/d{i + 1}"} for i in range(60)} | {"d60": {}}}},
        "60 times pattern, and combines",
    ),
    "names by patterns": ({"json_schema": {"patternProperties": {f"^a{i}": {} for i in range(101)}}}, "101 names in pattern"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_take_the_compiler_all_memory_or_time_is_refused_by_its_size(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(RequestError) as refused:
        checked_constraint(given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


LONG = {
    "a chain of rules": {"grammar": filled("start: r0", lambda i: f"r{i}: r{i + 1}", 60_000)},
    "a chain of terminals": {"grammar": filled("start: R0", lambda i: f'R{i}: "x" R{i + 1}?', 8_000)},
    "nested terminals": {"grammar": filled("start: R0", lambda i: f'R{i}: ("x" R{i + 1} "y" | "z")*', 8_000)},
    "terminals that double a little": {"grammar": filled("start: R0", lambda i: f"R{i}: R{i + 1} R{i + 1}", 220)},
    "alternatives of alternatives": {"grammar": f"start: {'a | ' * 499} a\na: {'b | ' * 499} b\nb: /x+/"},
    "names by patterns": {"json_schema": {"patternProperties": {f"^a{i}[a-z]*$": {} for i in range(100)}}},
    "brackets": {"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000},
    "brackets of a regex": {"regex": "(" * 65_000 + "a" + ")" * 65_000},
    "stars": {"regex": "a" + "*" * 130_000},
    "many alternatives": {"regex": "|".join(f"w{i}" for i in range(18_000))},
    "counted": {"regex": "((a{1000}){1000}){1000}b"},
    "an exponential automaton": {"regex": "(a|b)*a(a|b){1000}"},
    "a chain of references": {
        "json_schema": {
            "$defs": {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(900)} | {"d900": {}}, "$ref": "#/$defs/d0",
        }
    },
    "a circle of references": {"json_schema": {"$ref": "#"}},
    "many properties": {"json_schema": {"properties": {f"p{i}": {} for i in range(MOST_PARTS - 1)}, "additionalProperties": False}},
    "products of anyOf": {"json_schema": {"allOf": [{"anyOf": [{"const": i}, {"type": "string"}]} for i in range(100)]}},
    "many values": {"json_schema": {"enum": list(range(18_000))}},
}  # fmt: skip


@pytest.mark.parametrize("case", LONG)
def test_the_longest_texts_are_compiled_or_refused_in_time(grammars: Grammars, case: str) -> None:
    """The compiler recurses, and would end the process at the end of its stack."""
    began = time.monotonic()
    try:
        matcher = grammars.matcher(checked_constraint(LONG[case]))
        matcher.follow(TOKENIZER.encode("a"))
        matcher.copy()
    except RequestError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - began < 10


PIECES = (
    "start", ":", "|", '"', "'", "/", "\\", "(", ")", "[", "]", "{", "}", "*", "+", "?", "~", "&", "a", "A", "\n", " ", "0", "9",
    ",", "..", "%json", "%ignore", "%import common.", "%regex", "%declare", "%override", "@", "->", "_", ".", "#", "//", "-", "é",
    "\x00", "\uffff", "(?i)", "\\p{L}", "\\x", "{1,", "$ref", "start: ", '"a"', "/a+/", "X: ", "lazy", "max_tokens=3", "suffix=",
    "[lazy]", "::", "=", "%lark {", "%llguidance {}", "true", "null",
)  # fmt: skip


SCHEMAS = ('{"pattern": %s, "type": "string"}', '{"properties": {%s: {}}}', '{"const": %s}', "{%s: 1}")


def noise(dice: random.Random) -> str:
    length = dice.randint(1, 60)
    if dice.random() < 0.4:
        return dice.randbytes(length).decode("latin-1")
    text = "".join(dice.choice(PIECES) for _ in range(length))
    return text if dice.random() < 0.5 else f"start: x\nx: {text}"


def feed(grammars: Grammars, count: int, seed: int) -> dict[str, int]:
    """Random texts of every kind of constraint, and some tokens where one is taken."""
    dice, found = random.Random(seed), {"taken": 0, "refused": 0}
    for _ in range(count):
        kind = dice.choice(["grammar", "grammar", "regex", "json_schema"])
        text = noise(dice)
        if kind == "json_schema":
            text = dice.choice(SCHEMAS) % json.dumps(text)
        try:
            matcher = grammars.matcher(checked_constraint({kind: text}))
            for _ in range(3):
                matcher.follow([dice.randrange(1, 4096)])
            found["taken"] += 1
        except RequestError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            found["refused"] += 1
    return found


def test_two_thousand_random_texts_are_taken_or_refused(grammars: Grammars) -> None:
    found = feed(grammars, 2_000, seed=1)
    assert found["taken"] > 100 and found["refused"] > 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_tens_of_thousands_of_random_texts_are_taken_or_refused(grammars: Grammars, seed: int) -> None:
    assert sum(feed(grammars, 10_000, seed).values()) == 10_000


def test_a_regex_stands_between_slashes_as_it_was_given() -> None:
    for regex in ("a/b", "a\\/b", "\n", "\\\n", "\\\\", "/", "//", "a/|b #"):
        text = grammar_text({"regex": regex})
        assert text.count("%llguidance") == 1


def test_a_special_token_is_allowed_where_a_grammar_names_it_and_nowhere_else() -> None:
    inner = tokenizers.Tokenizer.from_str(TOKENIZER._inner.to_str())
    inner.add_special_tokens(["[CALL]"])
    tokenizer = Tokenizer(inner)
    mark, letter = inner.token_to_id("[CALL]"), inner.token_to_id("a")
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    named = grammars.matcher(checked_constraint({"grammar": f"start: <[{mark}]> /a+/"}))
    assert named.allows(mark) and not named.allows(letter)
    named.follow([mark])
    assert named.allows(letter) and not named.allows(mark)
    anything = grammars.matcher({"regex": "(.|\\n)+"})
    assert anything.allows(letter) and not anything.allows(mark)
