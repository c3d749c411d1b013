"""A constraint is checked once: what makes no sense is refused in one line, and what is left is a mapping of texts."""

from __future__ import annotations

import json

import msgspec
import pytest

from brigade.coordinator.messages import is_deeper
from brigade.engine.constraint.given import MOST_CHARACTERS, MOST_CHOICES, checked_constraint
from brigade.engine.constraint.schema import MOST_DEPTH, MOST_PARTS
from brigade.engine.sampling import SamplingParams
from brigade.errors import RequestError


def nested(levels: int) -> dict:
    schema: dict = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


BAD = {
    "no mapping": ("yes", 'constraint is "yes"; it must be an object with exactly one of json_schema'),
    "nothing": ({}, "exactly one of"),
    "two kinds": ({"regex": "a", "choice": ["a"]}, "exactly one of"),
    "another kind": ({"xml": "a"}, 'of the kind "xml"'),
    "no object": ({"json_object": False}, "json_object is false; it must be true"),
    "llama.cpp's grammar": ({"grammar": 'root ::= "a"'}, "is in GBNF"),
    "no text": ({"regex": 5}, "regex is 5; it must be a text"),
    "empty": ({"grammar": ""}, 'grammar is ""; it must be a text that is not empty'),
    "too long": ({"regex": "a" * (MOST_CHARACTERS + 1)}, f"131073 characters; {MOST_CHARACTERS} are allowed"),
    "too long a schema": ({"json_schema": {"enum": ["x" * MOST_CHARACTERS]}}, f"{MOST_CHARACTERS} are allowed: shorten it"),
    "half a pair": ({"regex": "a\ud800"}, "half of a surrogate pair at 1"),
    "no choices": ({"choice": []}, "must be a list of one or more texts"),
    "a text as choices": ({"choice": "ab"}, "must be a list of one or more texts"),
    "an empty choice": ({"choice": ["a", ""]}, 'has ""; each must be a text that is not empty'),
    "a choice twice": ({"choice": ["a", "b", "a"]}, 'has "a" twice'),
    "too many choices": ({"choice": list(map(str, range(MOST_CHOICES + 1)))}, f"{MOST_CHOICES} are allowed: give fewer"),
    "broken JSON": ({"json_schema": '{"type":'}, "cannot be read as JSON (Expecting value: line 1 column 9"),
    "JSON that is no object": ({"json_schema": "[1]"}, "json_schema is [1]; it must be an object"),
    "no number": ({"json_schema": '{"minimum": NaN}'}, "NaN is no JSON"),
    "no JSON value": ({"json_schema": {"const": {1, 2}}}, "a set is no JSON"),
    "brackets without end": ({"json_schema": "[" * 100_000}, "cannot be read as JSON"),
    "too deep": ({"json_schema": nested(MOST_DEPTH + 1)}, f"{MOST_DEPTH + 1} levels deep; {MOST_DEPTH} are allowed"),
    "too many parts": ({"json_schema": {"anyOf": [{}] * MOST_PARTS}}, f"2001 schemas within it; {MOST_PARTS} are allowed"),
    "a keyword that is not done": ({"json_schema": {"not": {}}}, "the keyword 'not' at #, which is not supported there"),
    "a keyword inside": (
        {"json_schema": {"properties": {"a/b": {"items": {"uniqueItems": True}}}}},
        "the keyword 'uniqueItems' at #/properties/a~1b/items",
    ),
    "a slip of the pen": ({"json_schema": {"type": "string", "maxlength": 3}}, "the keyword 'maxlength' at #"),
    "options of the compiler": ({"json_schema": {"x-guidance": {"lenient": True}}}, "the keyword 'x-guidance' at #"),
    "a reference outside": ({"json_schema": {"$ref": "https://example.org/a"}}, "it must name a schema within it"),
    "a reference to nothing": ({"json_schema": {"$ref": "#/$defs/a"}}, "$ref '#/$defs/a' at #; it must name"),
    "a reference into a value": ({"json_schema": {"$ref": "#/default", "default": {}}}, "it must name a schema within it"),
    "names that count once": ({"json_schema": {"minProperties": 2}}, "minProperties 2 at #, which is not supported above 1"),
    "too many remainders": ({"json_schema": {"multipleOf": 1_000_003}}, "1000003 remainders"),
    "remainders together": (
        {"json_schema": {"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}}, "multipleOf at #/allOf/1 such that 99400891",
    ),
    "many digits": ({"json_schema": {"multipleOf": 1234.5678}}, "12345678 remainders"),
    "no divisor": ({"json_schema": {"multipleOf": 0}}, "multipleOf 0 at #; it must be a number above 0"),
    "a special token": ({"grammar": "start: <|endoftext|>"}, "names tokens in <>"),
    "some tokens by their numbers": ({"grammar": "start: /a/ <[5-9]>"}, "names tokens in <>"),
    "a text without an end": ({"grammar": 'start: "a"\nx: "b'}, 'has a " in line 2 that is never closed'),
    "an expression without an end": ({"grammar": "start: /a"}, "has a / in line 1 that is never closed"),
    "a rule's temperature": ({"grammar": "start: a\na[temperature=0.5]: /x/"}, "the option 'temperature', which has no effect"),
    "a capture": ({"grammar": "start: a\na[capture, lazy]: /x/"}, "the option 'capture'"),
    "options": ({"grammar": '%llguidance {"no_forcing": false}\nstart: "a"'}, "sets %llguidance options"),
    "a schema within": ({"grammar": 'start: "a" x\nx: %json {"nullable": true}'}, "behind %json, has the keyword 'nullable' at #"),
    "no schema within": ({"grammar": 'start: x\n\nx: %json {"nullable"'}, "no JSON behind %json in line 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_line(case: str) -> None:
    given, words = BAD[case]
    with pytest.raises(RequestError) as refused:
        SamplingParams(constraint=given)
    assert words in str(refused.value) and "\n" not in str(refused.value)


GOOD = (
    {"json_schema": nested(MOST_DEPTH)}, {"json_schema": '{"type": "integer"}'}, {"json_object": True}, {"regex": "a|b"},
    {"grammar": 'start: "a<b" /</ // <c>\n'}, {"choice": ("a", "b")}, {"json_schema": {"multipleOf": 0.25, "x-order": 1}},
    {"json_schema": {"$defs": {"a b/c": {}}, "items": {"$ref": "#/$defs/a%20b~1c"}, "$schema": "", "title": "t"}},
    {"json_schema": {"properties": {"maxlength": {}, "not": {}}, "default": {"nullable": 1}, "enum": [{"if": 1}]}},
)  # fmt: skip


@pytest.mark.parametrize("given", GOOD, ids=str)
def test_what_is_left_are_texts_that_travel_and_are_checked_again_to_the_same(given: dict) -> None:
    params = SamplingParams(constraint=given)
    ((kind, value),) = params.constraint.items()
    assert isinstance(value, (str, list)) or value is True
    if kind == "json_schema":
        assert json.loads(value) == (json.loads(given[kind]) if isinstance(given[kind], str) else given[kind])
    assert not is_deeper({"constraint": params.constraint})
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(params.constraint))
    assert SamplingParams(constraint=travelled) == params and hash(SamplingParams(constraint=travelled)) == hash(params)


def test_the_order_of_properties_is_kept() -> None:
    text = SamplingParams(constraint={"json_schema": {"properties": {"z": {}, "a": {}}}}).constraint["json_schema"]
    assert text == '{"properties":{"z":{},"a":{}}}'


def test_the_callers_schema_may_change_later() -> None:
    schema = {"enum": [1]}
    params = SamplingParams(constraint={"json_schema": schema})
    schema["enum"].append(2)
    assert params.constraint == {"json_schema": '{"enum":[1]}'}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_tokens": 2}, "min_tokens is 2"),
        ({"ignore_eos": True}, "ignore_eos is true"),
        ({"max_tokens": 0, "echo": True}, "max_tokens 0"),
    ],
)
def test_what_cannot_go_with_a_constraint_is_refused(given: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        SamplingParams(constraint={"regex": "a"}, **given)


def test_a_constrained_row_is_not_plain() -> None:
    """So no rank answers it with the greatest logit alone."""
    params = SamplingParams(temperature=0.0, constraint={"regex": "a"})
    assert params.edits_logits and not params.is_plain and SamplingParams(temperature=0.0).is_plain


def test_a_choice_twice_is_found_without_comparing_each_with_each() -> None:
    compared = 0

    class Counted(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    choices = [Counted(number) for number in range(2000)]
    with pytest.raises(RequestError, match='has "1999" twice'):
        checked_constraint({"choice": [*choices[:-1], Counted(1999), Counted(1999)]})
    assert compared < 4000, "each with each are two million"
