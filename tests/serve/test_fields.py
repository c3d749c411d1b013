"""Fields of a request: null is silence, what is harmless is taken, and all else that is not known is refused by its name."""

from __future__ import annotations

import gzip
import json
from typing import Any

import msgspec
import pytest

from brigade.coordinator.messages import is_deeper
from brigade.errors import RequestError
from brigade.serve import other_servers
from brigade.serve.chat import ChatBody
from brigade.serve.completions import CompletionBody
from brigade.serve.errors import ApiError, as_api_error
from brigade.serve.fields import HARMLESS, MOST_DEPTH, MOST_STOPS, PLAIN, Body, convert, read_json
from brigade.serve.tokens import DetokenizeBody

PROMPT = {"prompt": "a"}
MESSAGES = {"messages": [{"role": "user", "content": "a"}]}
BODIES = [(CompletionBody, PROMPT), (ChatBody, MESSAGES)]
both = pytest.mark.parametrize(("kind", "least"), BODIES, ids=["completion", "chat"])


def refused(found: dict[str, Any], kind: type = CompletionBody) -> ApiError:
    with pytest.raises(ApiError) as error:
        body = convert(found, kind)
        body.check()
        body.sampling()
    return error.value


@both
def test_null_is_as_if_the_field_were_not_there(kind, least) -> None:
    nulls = {field.name: None for field in msgspec.structs.fields(kind) if not field.required} | dict.fromkeys(HARMLESS)
    with_nulls, without = convert(least | nulls, kind), convert(least, kind)
    with_nulls.check()
    assert with_nulls == without and with_nulls.sampling() == without.sampling()


def test_null_inside_of_the_stream_options_is_silence_too() -> None:
    body = convert(
        PROMPT | {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}}, CompletionBody
    )
    body.check()
    assert not body.wants_usage


@both
@pytest.mark.parametrize("name", HARMLESS)
def test_each_harmless_field_is_taken_with_its_values_and_no_others(kind, least, name) -> None:
    values = HARMLESS[name]
    for value in ["me", {"a": "b"}, 7] if values is None else values:
        assert convert(least | {name: value}, kind) == convert(least, kind)
    if values is not None:
        error = refused(least | {name: "another"}, kind)
        assert (error.param, error.code) == (name, "unsupported_value") and '"another"' in error.message


@both
@pytest.mark.parametrize("name", ["top_quark", "functions", "prediction", "audio", "web_search_options", "x" * 5000])
def test_an_unknown_field_is_refused_by_its_name(kind, least, name) -> None:
    error = refused(least | {name: 1}, kind)
    assert error.status == 400 and error.code == "unknown_parameter" and error.param == name[:100]
    assert "docs/serve.md" in error.message and len(error.message) < 300


def test_an_unknown_field_inside_of_a_field_is_refused_by_its_path() -> None:
    error = refused(PROMPT | {"stream": True, "stream_options": {"include_all": True}})
    assert error.param == "stream_options.include_all" and error.code == "unknown_parameter"


@both
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "1", "it must be a number, not a text"),
        ("max_tokens", 1.5, "it must be an integer of 1 or more, or 0 beside"),
        ("max_tokens", -1, "it must be an integer of 1 or more, or 0 beside"),
        ("n", 0, "it must be an integer >= 1"),
        ("n", 129, "<= 128"),
        ("seed", 2**63, "<= 9223372036854775807"),
        ("seed", True, "it must be an integer, not true or false"),
        ("stream", "yes", "it must be true or false, not a text"),
        ("logit_bias", [1], "it must be an object, not an array"),
        ("stop_token_ids", "7", "it must be an array, not a text"),
        ("extra", 7, "it must be an object, not an integer"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_name_the_value_and_the_type(kind, least, name, value, words) -> None:
    error = refused(least | {name: value}, kind)
    assert error.param == name and error.code == "invalid_type"
    assert error.message.startswith(f"{name} is {msgspec.json.encode(value).decode()}; ") and words in error.message


@pytest.mark.parametrize(("kind", "name"), [(CompletionBody, "prompt"), (ChatBody, "messages")])
def test_what_must_be_there_is_asked_for(kind, name) -> None:
    error = refused({}, kind)
    assert (error.param, error.code, error.message) == (name, "missing_required_parameter", f"{name} is missing; give it")


def test_a_value_is_shown_in_one_short_piece() -> None:
    assert len(refused(PROMPT | {"temperature": "x" * 10_000}).message) < 200


def test_vllms_name_of_a_field_is_read_as_ours_and_not_beside_it() -> None:
    body = convert(PROMPT | {"include_stop_str_in_output": True, "stop": "x"}, CompletionBody)
    assert body.sampling()["include_stop"] is True
    assert "two names" in refused(PROMPT | {"include_stop_str_in_output": True, "include_stop": False}).message


def test_a_stop_string_that_is_to_be_kept_needs_none() -> None:
    assert "include_stop" not in convert(PROMPT | {"include_stop": True}, CompletionBody).sampling()


def test_sampling_parameters_keep_their_names_and_values() -> None:
    given = {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": 0.2, "max_tokens": 3, "top_k": 4,
        "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1, "stop_token_ids": [5], "ignore_eos": True, "priority": 6,
        "prompt_logprobs": 2, "cache_salt": "salt", "extra": {"mine": 1}, "include_stop": True, "skip_special_tokens": False,
    }  # fmt: skip
    assert set(given) == set(PLAIN)
    body = convert(PROMPT | given | {"stop": ["x"], "seed": 7, "logit_bias": {"8": 1.5}}, CompletionBody)
    assert body.sampling() == given | {"stop": ["x"], "seed": 7, "logit_bias": {8: 1.5}}


def test_a_negative_seed_is_another_one_for_each_number() -> None:
    seeds = [convert(PROMPT | {"seed": seed}, CompletionBody).sampling()["seed"] for seed in (-1, -(2**63), 2**63 - 1)]
    assert seeds == [2**64 - 1, 2**63, 2**63 - 1]


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"stop": ["x"] * (MOST_STOPS + 1)}, "stop", "65 strings; 64 are allowed: give fewer"),
        ({"logit_bias": {"word": 1}}, "logit_bias", '"word"'),
        ({"stream_options": {"include_usage": True}}, "stream_options", "no effect without stream"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "pads no events"),
    ],
)
def test_what_could_have_no_effect_or_is_too_much_is_refused(given, param, words) -> None:
    error = refused(PROMPT | given)
    assert error.param == param and words in error.message


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"messages": []}, "messages", "empty"),
        ({"messages": [{}] * 4097}, "messages", "4096 are allowed: give fewer"),
        ({"top_logprobs": 2}, "top_logprobs", "no effect without logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "differ"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "<= 20"),
    ],
)
def test_what_a_conversation_may_not_say(given, param, words) -> None:
    error = refused(MESSAGES | given, ChatBody)
    assert error.param == param and words in error.message


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"prompt": NaN}', b'{"a": 1} x', b'{"a": "\\x"}', b'{"a": 1e999}'])
def test_what_is_no_json_is_refused(data) -> None:
    with pytest.raises(ApiError, match="is not valid JSON") as error:
        read_json(data)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'\xef\xbb\xbf{"prompt": "a"}', "(it begins with a byte order mark); send it without one"),
        ('{"prompt": "a"}'.encode("utf-16"), "(it is UTF-16); send it as UTF-8"),
        (gzip.compress(b'{"prompt": "a"}', mtime=0), "(it is compressed by gzip); send it uncompressed"),
        (b"prompt=a&max_tokens=3", '(it looks like a form); send one JSON object, such as {"prompt": "import "}'),
        (b'--7a7a\r\nContent-Disposition: form-data; name="prompt"\r\n', "(it looks like a form); send one JSON object"),
        (b'{"prompt": "\\ud83d"}', "(an escape such as \\ud83d is half of a character); send both halves, or the character itself"),
        (b'{"prompt": "\\ud83d and more than that"}', "is half of a character)"),
        (b'{"prompt": "\\uDE00 and more than that"}', "is half of a character)"),
        (b'{"prompt": "\xe4"}', "(a text in it is not UTF-8); send it as UTF-8"),
        (b'{"prompt": "a', "(it ends before its object does); send all of it"),
        (b'{"prompt": "\\ud83d\\ude00', "(it ends before its object does); send all of it"),
        (b'{"prompt": [1e999]}', "(a number in it is too large); send one that a double or 64 bits can hold"),
        (b'{"prompt": "a",}', "(trailing comma in object (byte 15)); send one JSON object"),
    ],
)
def test_the_usual_mistakes_have_usual_words(data, words) -> None:
    with pytest.raises(ApiError) as error:
        read_json(data)
    assert error.value.message.startswith("the body is not valid JSON (") and words in error.value.message


@pytest.mark.parametrize(
    ("kind", "found", "param", "said"),
    [
        (CompletionBody, PROMPT | {"stop": [5]}, "stop[0]", "stop[0] is 5; it must be a text, not an integer"),
        (ChatBody, {"messages": ["hello"]}, "messages[0]", 'messages[0] is "hello"; it must be an object, not a text'),
        (ChatBody, MESSAGES | {"tools": [{}, None]}, "tools[1]", "tools[1] is null; it must be an object, not null"),
        (DetokenizeBody, {"tokens": [1, "b"]}, "tokens[1]", 'tokens[1] is "b"; it must be an integer, not a text'),
        (CompletionBody, PROMPT | {"logit_bias": {"5": "x"}}, "logit_bias", 'logit_bias is {"5": "x"}; it must be a number, not a'),
        (CompletionBody, PROMPT | {"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "usage is 1; it"),
    ],
)
def test_a_value_that_is_wrong_within_another_is_shown(kind, found, param, said) -> None:
    with pytest.raises(ApiError) as error:
        convert(found, kind)
    assert error.value.param == param and said in error.value.message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": ["a"] * 1025}, "prompt has 1025 prompts; 1024 are allowed: ask in several requests"),
        ({"prompt": ["a"] * 1024, "n": 3}, "are 3072 answers; 2048 are allowed: lower n, or ask in several requests"),
    ],
)
def test_what_is_too_many_has_a_remedy(given, words) -> None:
    assert words in refused(given).message


@pytest.mark.parametrize("data", [b"", b" ", b"\r\n"])
def test_a_body_that_is_empty_is_said_to_be(data) -> None:
    with pytest.raises(ApiError, match="the body is empty; send one JSON object, such as"):
        read_json(data)


@pytest.mark.parametrize(
    ("data", "message", "param"),
    [
        (b'{"temperature": 1, "seed": 2, "temperature": 1}', "temperature is given twice; give it once", "temperature"),
        (b'{"seed" :1, "seed"\n: 2}', "seed is given twice; give it once", "seed"),
        (b'{"seed": 1, "\\u0073eed": 2}', "seed is given twice; give it once", "seed"),
        (b'{"logit_bias": {"5": 1, "5": 2}}', '"5" is given twice in one object; give it once', None),
        (b'{"messages": [{"role": "user", "role": "user"}]}', '"role" is given twice in one object; give it once', None),
        (b'{"a\\\\": 1, "seed": 1, "seed": 2}', "seed is given twice; give it once", "seed"),
        (b'{"a\\\\": ":", "b": {"c": 1, "c": 1}}', '"c" is given twice in one object; give it once', None),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_name(data, message, param) -> None:
    with pytest.raises(ApiError) as error:
        read_json(data)
    assert (error.value.message, error.value.param) == (message, param)


@pytest.mark.parametrize(
    "found",
    [
        {"prompt": ': "a"', "seed": 1}, {"prompt": '{"a": 1, "a": 2}'}, {"prompt": '\\"a\\\\": '}, {"a\\": {"a\\": 1}},
        {"prompt": ['":', '": ', '\\":']}, {"messages": [{"role": "a"}, {"role": "a"}]}, {"": {"": ""}},
    ],
)  # fmt: skip
def test_what_only_looks_like_a_key_is_none(found) -> None:
    assert read_json(json.dumps(found).encode()) == read_json(msgspec.json.encode(found)) == found


@both
@pytest.mark.parametrize("whose", other_servers.FIELDS)
def test_a_field_of_another_server_is_refused_with_what_to_give_instead(kind, least, whose) -> None:
    for name, remedy in other_servers.FIELDS[whose].items():
        if name in kind.__struct_fields__:  # which has words of its own
            continue
        error = refused(least | {name: 1}, kind)
        assert (error.param, error.code) == (name, "unknown_parameter")
        assert whose in error.message and remedy in error.message and len(error.message) < 300


@pytest.mark.parametrize(
    ("kind", "least", "name", "remedy"),
    [
        (CompletionBody, PROMPT, "max_completion_tokens", "give max_tokens"),
        (CompletionBody, PROMPT, "messages", "ask /v1/chat/completions, or give prompt"),
        (ChatBody, MESSAGES, "prompt", "give messages, or ask /v1/completions"),
    ],
)
def test_a_field_of_the_sister_address_is_refused_with_where_it_belongs(kind, least, name, remedy) -> None:
    error = refused(least | {name: 1}, kind)
    assert (error.param, error.code) == (name, "unknown_parameter")
    assert error.message.startswith(f"{name} is not a field of this address: {remedy} (")


def test_every_field_of_one_address_alone_has_its_words_at_the_other() -> None:
    completions, chats = (set(kind.__struct_fields__) for kind in (CompletionBody, ChatBody))
    assert set(CompletionBody.elsewhere) == chats - completions
    openais = set(other_servers.FIELDS["OpenAI's"])  # suffix and best_of, which are refused everywhere
    assert set(ChatBody.elsewhere) == completions - chats - openais


@both
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"), ("Temperature", "temperature"), ("max_new_tokens", "max_tokens"), ("top-k", "top_k"),
        ("include_stop_str_in_ouput", "include_stop_str_in_output"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_told_the_name_that_was_meant(kind, least, name, meant) -> None:
    error = refused(least | {name: 1}, kind)
    said = f'"{name}" is not a field that this server knows here; give {meant}, if that is meant, or drop it ('
    assert error.param == name and error.message.startswith(said)


def test_a_word_that_is_near_to_nothing_is_told_no_other() -> None:
    assert "knows here; drop it (" in refused(PROMPT | {"top_quark": 1}).message


@pytest.mark.parametrize(
    ("data", "word"), [(b"[1]", "an array"), (b'"a"', "a text"), (b"1", "a number"), (b"null", "null"), (b"true", "true or false")]
)
def test_json_that_is_no_object_is_refused(data, word) -> None:
    with pytest.raises(ApiError, match=f"the body is {word};"):
        read_json(data)


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def test_depth_is_counted_with_the_body_itself() -> None:
    assert read_json(nested(MOST_DEPTH))
    for depth in (MOST_DEPTH + 1, 100_000):
        with pytest.raises(ApiError, match="deeper than 64"):
            read_json(nested(depth))
    with pytest.raises(ApiError, match="deeper than 64"):
        read_json(b'{"a":' + b"[" * 100_000)
    assert is_deeper([[1], [[2]]], 2) and not is_deeper([[1], [[2]]], 3)


@pytest.mark.parametrize("depth", range(100, 1100, 10))
def test_depth_in_a_value_that_another_replaces_is_told_too(depth: int) -> None:
    with pytest.raises(ApiError) as error:
        read_json(b'{"a": ' + b"[" * depth + b"]" * depth + b', "a": 1}')
    assert error.value.status == 400 and ("given twice" in error.value.message or "deeper than 64" in error.value.message)


@pytest.mark.parametrize("key", ["05", " 5", "5 ", "+5", "1_0", "\u0665", "-1", "", "9" * 20])
def test_a_token_has_one_way_to_be_named(key: str) -> None:
    error = refused(PROMPT | {"logit_bias": {"5": 1, key: 2}})
    assert error.param == "logit_bias" and "its keys are token ids" in error.message
    assert convert(PROMPT | {"logit_bias": {"0": 1, "10": 2}}, CompletionBody).sampling()["logit_bias"] == {0: 1, 10: 2}


def test_a_field_of_another_name_is_refused_by_the_name_that_was_given() -> None:
    error = refused(PROMPT | {"include_stop_str_in_output": "yes"})
    assert error.param == "include_stop_str_in_output" and error.message.startswith('include_stop_str_in_output is "yes";')
    assert refused(PROMPT | {"include_stop": "yes"}).param == "include_stop"


TOOL = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [TOOL], "response_format": {"type": "text"}}, "tools"),
        ({"tools": [TOOL], "tool_choice": "none", "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "none", "constraint": {"regex": "a"}}, "constraint"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_a_constraint_is_refused_as_the_field_that_it_came_from(more: dict[str, Any], param: str) -> None:
    body = convert(MESSAGES | more, ChatBody)
    assert as_api_error(RequestError("constraint grammar cannot be compiled: too large"), body.names).param == param
    assert as_api_error(RequestError("it needs more", "constraint"), body.names).param == param


def test_a_body_is_read_at_once() -> None:
    assert convert(read_json(b'{"prompt": "a", "user": "me"}'), CompletionBody) == CompletionBody(prompt="a")


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ("temperature is 7; it must be a number from 0 to 100", "temperature"),
        ("logit_bias names token -1; it must be an id of 0 or more", "logit_bias"),
        ("logit_bias of token 5 is 'x'; it must be a number from -100 to 100", "logit_bias"),
        ("the prompt has 0 tokens; give at least 1", None),
        ("token id 9 is outside the vocabulary of 4; use 0 to 3", None),
    ],
)
def test_an_engines_refusal_names_its_field(said, param) -> None:
    error = as_api_error(RequestError(said))
    assert (error.status, error.param, error.message) == (400, param, said)


def test_every_field_of_the_shared_body_has_a_use() -> None:
    """A field that is read by nobody would be accepted and then ignored."""
    elsewhere = {"model", "stream", "stream_options", "seed", "stop", "logit_bias", "return_token_ids"}
    elsewhere |= {"response_format", "constraint", "return_tokens_as_token_ids"}  # read by each API
    assert {field.name for field in msgspec.structs.fields(Body)} == set(PLAIN) | elsewhere
