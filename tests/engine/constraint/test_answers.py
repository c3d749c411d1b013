"""What the embedded model says under a constraint is of the form that was asked for: drawn at temperature 1, and greedy."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from brigade import LLM, SamplingParams
from brigade.errors import RequestError
from tests.engine.constraint.schemas import schemas

PROMPT = "def answer(x):\n    return "
SCHEMAS = schemas(100)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(kv_blocks=512, max_batch_size=32)


def ask(llm: LLM, constraints: list[dict], **given) -> list:
    params = [SamplingParams(**{"max_tokens": 900, "constraint": one} | given) for one in constraints]
    return [output.samples[0] for output in llm.generate([PROMPT] * len(params), params)]


def check(schema: dict, output) -> None:
    assert output.finish_reason == "stop", (schema, output.text, output.error)
    jsonschema.validate(json.loads(output.text), schema, jsonschema.Draft202012Validator, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_valid_for_a_hundred_schemas(llm: LLM, temperature: float) -> None:
    outputs = ask(llm, [{"json_schema": schema} for schema in SCHEMAS], temperature=temperature, seed=3)
    for schema, output in zip(SCHEMAS, outputs, strict=True):
        check(schema, output)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_more_answers_are_valid(llm: LLM, seed: int) -> None:
    outputs = ask(llm, [{"json_schema": schema} for schema in SCHEMAS], temperature=1.6, seed=seed)
    for schema, output in zip(SCHEMAS, outputs, strict=True):
        check(schema, output)


STRING = {"type": "string", "maxLength": 4}
HARD = (
    {"allOf": [{"properties": {"a": {"type": "integer", "minimum": 5}}}, {"properties": {"a": {"maximum": 9}}}], "required": ["a"],
     "type": "object", "additionalProperties": False, "properties": {"a": True}},
    {"$defs": {"base": {"type": "integer", "minimum": -20}}, "$ref": "#/$defs/base", "maximum": 3, "multipleOf": 3},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": k}, k: STRING}, "required": ["k", k], "additionalProperties": False}
               for k in ("x", "y")]},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2, "propertyOrder": None},
    {"type": "object", "properties": {"a": {"enum": [1]}, "b": {"enum": [2]}}, "required": ["b", "a"], "minProperties": 2,
     "additionalProperties": False},
    {"type": "array", "prefixItems": [{"const": 1.5}, {"$ref": "#/prefixItems/0"}], "maxItems": 4,
     "items": {"type": ["null", "boolean"]}},
    {"anyOf": [{"type": "string", "pattern": "^[a-c]+$", "maxLength": 3, "minLength": 2},
               {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.125}]},
    {"type": "object", "properties": {"a/b~c": {"type": "null"}, "d": {"$ref": "#/properties/a~1b~0c"}}, "required": ["d"],
     "additionalProperties": False},
    {"enum": ["a", 1, None, True, 1.25, [], {}, "\U0001f600", "\\\"/"]},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "object", "required": ["free"], "properties": {"free": {"type": ["integer", "string"], "maxLength": 2, "minimum": 0,
     "maximum": 50}}, "additionalProperties": False},
)  # fmt: skip


@pytest.mark.parametrize("place", range(len(HARD)))
def test_schemas_that_combine_others_are_obeyed_too(llm: LLM, place: int) -> None:
    """Or refused: a word that is no keyword."""
    schema = HARD[place]
    if "propertyOrder" in schema:
        with pytest.raises(RequestError, match="the keyword 'propertyOrder' at #"):
            SamplingParams(constraint={"json_schema": schema})
        schema = {word: value for word, value in schema.items() if word != "propertyOrder"}
    for seed in range(4):
        for output in ask(llm, [{"json_schema": schema}] * 8, temperature=(0.0, 1.0, 1.6, 4.0)[seed], max_tokens=600):
            if output.finish_reason == "stop" or "additionalProperties" not in schema:  # free names have any length
                check(schema, output)


def test_the_hundred_use_every_keyword_that_is_supported() -> None:
    text = json.dumps(SCHEMAS)
    for word in (
        "enum", "const", "anyOf", "$ref", "$defs", "items", "prefixItems", "minItems", "maxItems", "properties",
        "patternProperties", "additionalProperties", "required", "maxProperties", "minProperties", "minLength", "maxLength",
        "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    ):  # fmt: skip
        assert f'"{word}"' in text, word


def test_the_same_question_without_its_constraint_is_answered_otherwise(llm: LLM) -> None:
    """Guards the others: it is not the model that speaks JSON."""
    (free,) = llm.generate([PROMPT], SamplingParams(max_tokens=40, temperature=0.0))
    with pytest.raises(ValueError):
        json.loads(free.text)


REGEXES = (
    "[a-z]{3,8}@[a-z]{2,5}[.]com", "(yes|no)", "a/b", "\\d{4}-\\d{2}", "[^\n]{5}", "(é|ü){2,4}x?", "one\ntwo", "日本[0-9]",
    "a|ab|abc",
)  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_match_a_regex(llm: LLM, temperature: float) -> None:
    for regex, output in zip(REGEXES, ask(llm, [{"regex": one} for one in REGEXES], temperature=temperature, seed=5), strict=True):
        assert output.finish_reason == "stop" and re.fullmatch(regex, output.text), (regex, output.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_one_of_the_choices(llm: LLM, temperature: float) -> None:
    choices = ["yes", "no", "not", 'say "so"', "größe", "a\nb", "日本", "\\d", "a/b", "</s>"]
    for output in ask(llm, [{"choice": choices}] * 30, temperature=temperature):
        assert output.finish_reason == "stop" and output.text in choices
    for one in choices:  # each of them can be said
        (output,) = ask(llm, [{"choice": [one]}], temperature=temperature)
        assert (output.text, output.finish_reason) == (one, "stop")


GRAMMAR = """
start: sum
sum: product (("+" | "-") product){0,3}
product: NUMBER ("*" NUMBER){0,2}
NUMBER: /[1-9][0-9]{0,2}/
"""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_of_a_grammar(llm: LLM, temperature: float) -> None:
    for output in ask(llm, [{"grammar": GRAMMAR}] * 8, temperature=temperature):
        assert output.finish_reason == "stop" and re.fullmatch(r"\d{1,3}([-+*]\d{1,3})*", output.text)
        assert isinstance(eval(output.text), int)


def test_an_object_of_any_kind(llm: LLM) -> None:
    outputs = ask(llm, [{"json_object": True}] * 12, temperature=1.0, seed=1, max_tokens=500)
    ended = [output for output in outputs if output.finish_reason == "stop"]
    assert ended and all(isinstance(json.loads(output.text), dict) for output in ended)
    assert all(output.text.startswith("{") for output in outputs)


def test_max_tokens_cuts_a_constrained_answer(llm: LLM) -> None:
    schema = {"type": "string", "minLength": 200, "maxLength": 300}
    (cut,) = ask(llm, [{"json_schema": schema}], temperature=1.0, seed=2, max_tokens=10)
    assert cut.finish_reason == "length" and len(cut.token_ids) == 10 and cut.text.startswith('"')


def test_an_answer_that_is_whole_at_max_tokens_ends_by_itself(llm: LLM) -> None:
    (whole,) = ask(llm, [{"choice": ["abc"]}], temperature=0.0)
    (again,) = ask(llm, [{"choice": ["abc"]}], temperature=0.0, max_tokens=len(whole.token_ids))
    assert (again.text, again.finish_reason, again.stop_reason) == ("abc", "stop", None)


def test_the_end_of_text_is_allowed_where_the_grammar_may_end_and_nowhere_else(llm: LLM) -> None:
    """Forbidden before, however much a bias asks for it; taken at once where it may come."""
    end = llm.tokenizer.eos_ids[0]
    (output,) = ask(llm, [{"regex": "ab+"}], temperature=0.0, logit_bias={end: 100.0})
    assert output.text == "ab" and output.token_ids[-1] == end and (output.finish_reason, output.stop_reason) == ("stop", end)


def test_an_id_of_stop_token_ids_ends_an_answer_only_where_it_may_end(llm: LLM) -> None:
    """Also one that is text: it is no part of the answer."""
    (b,) = llm.tokenizer.encode("b")
    (output,) = ask(llm, [{"regex": "xy+"}], temperature=0.0, logit_bias={b: 100.0}, stop_token_ids=[b])
    assert (output.text, output.stop_reason) == ("xy", b)


def test_a_stop_string_ends_a_constrained_answer(llm: LLM) -> None:
    (output,) = ask(llm, [{"choice": ["one, two, three"]}], temperature=0.0, stop=[","])
    assert (output.text, output.finish_reason, output.stop_reason) == ("one", "stop", ",")


def test_log_probabilities_are_those_of_the_model_without_the_constraint(llm: LLM) -> None:
    params = {"max_tokens": 1, "temperature": 0.0, "logprobs": 5}
    (free,) = llm.generate([PROMPT], SamplingParams(**params))
    (held,) = llm.generate([PROMPT], SamplingParams(**params, constraint={"regex": "[0-9]+"}))
    assert held.logprobs[0].top == free.logprobs[0].top and held.logprobs[0].rank > 1


def test_a_bias_against_every_token_that_is_needed_changes_none_of_what_may_be_said(llm: LLM) -> None:
    """It makes others more likely, and they are forbidden."""
    against = {token: -100.0 for text in ("y", "e", "s", "es", "ye", "yes") for token in llm.tokenizer.encode(text)}
    for temperature in (0.0, 1.0):
        (output,) = ask(llm, [{"choice": ["yes"]}], temperature=temperature, logit_bias=against)
        assert (output.text, output.finish_reason) == ("yes", "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_answers_of_one_constraint_are_each_what_they_are_alone(llm: LLM, temperature: float) -> None:
    given = {"temperature": temperature, "max_tokens": 30, "constraint": {"regex": "[a-z]{2,8}(-[a-z]{1,8})?"}}
    (output,) = llm.generate([PROMPT], SamplingParams(n=5, seed=11, **given))
    assert len({one.text for one in output.samples}) == (1 if temperature == 0.0 else 5)
    for one in output.samples:
        assert one.finish_reason == "stop" and re.fullmatch("[a-z]{2,8}(-[a-z]{1,8})?", one.text)
    first = llm.generate([PROMPT], SamplingParams(n=1, seed=11, **given))[0]
    assert first.token_ids == output.samples[0].token_ids


def test_an_echo_and_the_prompts_log_probabilities_are_no_part_of_what_is_constrained(llm: LLM) -> None:
    beside = {"temperature": 0.0, "echo": True, "prompt_logprobs": 2, "logprobs": 1, "max_tokens": 8}
    (held,) = llm.generate([PROMPT], SamplingParams(constraint={"regex": "[0-9]{3}"}, **beside))
    (free,) = llm.generate([PROMPT], SamplingParams(**beside))
    assert held.text.startswith(PROMPT) and re.fullmatch("[0-9]{3}", held.text.removeprefix(PROMPT))
    assert held.prompt_logprobs == free.prompt_logprobs and len(held.logprobs) == len(held.token_ids)
    assert held.logprobs[0].top == free.logprobs[0].top


@pytest.mark.parametrize("stop", ["2", "23", "45"])
def test_a_stop_string_in_the_middle_of_what_a_grammar_asks_for_cuts_the_answer(llm: LLM, stop: str) -> None:
    """With its reason, so that nobody takes it for a whole one; where the text ends with it too."""
    for include in (False, True):
        (output,) = ask(llm, [{"choice": ["12345"]}], temperature=0.0, stop=[stop], include_stop=include)
        assert output.text == "12345"[: "12345".index(stop) + include * len(stop)]
        assert (output.finish_reason, output.stop_reason) == ("stop", stop)
