"""Whatever the constraint, the parameters beside it, the engine, and the place at which a stream is cut: what was heard before and
what another engine says behind it are what the stream says uncut. `test_same_tokens.py` has the same for thirty that are chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade import LLM, SamplingParams
from tests.api.small_model import write_model
from tests.engine.going_on import Asked, check, run

ROOM = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}
PROMPTS = ("import ", "def f(x):" * 5, "größe 日本 = ", [5, 6, 7], list(range(5, 75)))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_model(tmp_path_factory.mktemp("any") / "model"), **ROOM)


def counted(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bounds = st.tuples(inner, st.integers(0, 3), st.integers(1, 4)).map(lambda one: f"({one[0]}){{{one[1]},{one[1] + one[2]}}}")
    return st.one_of(bounds, st.tuples(inner, inner).map("".join), st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"))


PIECE = st.sampled_from(["[a-z]", "[0-9]+", "x", "é", "日本", "[^a]", "import", "( |-)", ".", "\\n?"])
REGEX = st.recursive(PIECE, counted, max_leaves=6).map(lambda body: {"regex": f"{body}[a-z ]"})
CHOICE = st.lists(st.text("abé日 -", min_size=1, max_size=9), min_size=1, max_size=5, unique=True).map(lambda one: {"choice": one})
VALUE: st.SearchStrategy[dict] = st.recursive(
    st.sampled_from(
        [{"type": "integer"}, {"type": "string", "maxLength": 5}, {"enum": ["a", 1, None]}, {"type": "boolean"}, {"const": "é\n"}]
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda some: {"type": "object", "properties": some, "required": sorted(some)[:2], "additionalProperties": False}
        ),
        inner.map(lambda one: {"type": "array", "items": one, "maxItems": 3}),
        st.tuples(inner, inner).map(lambda two: {"anyOf": list(two)}),
    ),
    max_leaves=5,
)
SCHEMA = VALUE.map(lambda schema: {"json_schema": json.dumps(schema)})
LARK = st.tuples(st.sampled_from(["(", "<", "begin "]), REGEX, st.integers(1, 4)).map(
    lambda one: {"grammar": f'start: item{{1,{one[2]}}}\nitem: "{one[0]}" (start | WORD)? ";"\nWORD: /{one[1]["regex"]}/'}
)
BESIDE: tuple[dict[str, Any], ...] = (
    {}, {"logprobs": 2}, {"repetition_penalty": 1.3}, {"frequency_penalty": 0.9, "presence_penalty": 0.4}, {"top_k": 3},
    {"logit_bias": {17: 5.0, 40: -100.0}}, {"stop": ["a", "é;"]}, {"stop": ["1"], "include_stop": True}, {"echo": True},
    {"prompt_logprobs": 1, "logprobs": 0}, {"top_p": 0.7}, {"min_p": 0.05}, {"stop_token_ids": (40, 41)},
)  # fmt: skip


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    params = {"temperature": draw(st.sampled_from([0.0, 0.8, 1.4])), "seed": draw(st.integers(0, 1000))}
    params |= {"n": draw(st.integers(1, 3)), "max_tokens": draw(st.integers(1, 16))}
    for more in draw(st.lists(st.sampled_from(BESIDE), max_size=2)):
        params |= more
    return Asked(draw(st.sampled_from(PROMPTS)), SamplingParams(constraint=draw(st.one_of(REGEX, CHOICE, SCHEMA, LARK)), **params))


ENGINES = st.tuples(
    st.sampled_from(["dynamic", "static"]),
    st.sampled_from([{}, {"kv_blocks": 6}, {"prefill_chunk": 5, "max_step_tokens": 20}, {"max_batch_size": 3}]),
)
FRACTIONS = st.lists(st.floats(0, 1), min_size=9, max_size=9)


def cut_and_go_on(llm: LLM, requests: list[Asked], engine: tuple[str, dict], fractions: list[float]) -> None:
    whole = run(llm.make_engine("dynamic", **ROOM), requests)
    places = iter(fractions)
    cuts = [[round(next(places) * len(one.sample.token_ids)) for one in each] for each in whole]
    known = [[one.delivered(cut) for one, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    kind, given = engine
    for before, after, cut in zip(whole, run(llm.make_engine(kind, **ROOM | given), requests, known), cuts, strict=True):
        assert all(one.sample.finish_reason in ("stop", "length") for one in before), before[0].sample.error
        check(before, after, cut)


@given(requests=st.lists(asked(), min_size=1, max_size=3), engine=ENGINES, fractions=FRACTIONS)
@settings(max_examples=40, deadline=None)
def test_a_stream_that_is_cut_anywhere_goes_on_as_it_would_have(llm: LLM, requests, engine, fractions) -> None:
    cut_and_go_on(llm, requests, engine, fractions)


@pytest.mark.slow
@given(requests=st.lists(asked(), min_size=1, max_size=3), engine=ENGINES, fractions=FRACTIONS)
@settings(max_examples=1500, deadline=None)
def test_many_more_streams_that_are_cut_anywhere(llm: LLM, requests, engine, fractions) -> None:
    cut_and_go_on(llm, requests, engine, fractions)
