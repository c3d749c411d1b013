"""Each sampling field of a request does what the parameter of the engine does: the same tokens, by either API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brigade import LLM, SamplingParams
from brigade.engine.prompt import ChatPrompt
from brigade.serve.fields import PLAIN
from tests.serve.servers import Running

PROMPT = "for i in range(10):\n    "
MESSAGES = [{"role": "user", "content": "sort a list"}]
FIELDS: dict[str, dict[str, Any]] = {
    "n": {"n": 3},
    "temperature": {"temperature": 0.3},
    "top_p": {"top_p": 0.2},
    "top_k": {"top_k": 2},
    "min_p": {"min_p": 0.3},
    "presence_penalty": {"presence_penalty": 2.0},
    "frequency_penalty": {"frequency_penalty": 2.0},
    "repetition_penalty": {"repetition_penalty": 3.0},
    "max_tokens": {"max_tokens": 5},
    "min_tokens": {"min_tokens": 15, "stop": list("aeio t")},
    "stop_token_ids": {"stop_token_ids": list(range(2000))},
    "ignore_eos": {"ignore_eos": True},
    "include_stop": {"include_stop": True, "stop": list("aeio t")},
    "priority": {"priority": -1},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "cache_salt": {"cache_salt": "mine"},
    "skip_special_tokens": {"skip_special_tokens": False},
    "seed": {"seed": 2**62 + 1},
    "stop": {"stop": list("aeio t")},
}
ELSEWHERE = {
    "ignore_eos",
    "priority",
    "prompt_logprobs",
    "cache_salt",
    "skip_special_tokens",
    "max_tokens",
    "n",
}  # that change no token of the first answer
LEFT_OUT = {"extra"}  # needs a parameter that somebody registered: `test_a_parameter_of_ones_own`


@pytest.fixture
def post(server: Running):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield lambda path, body: client.post(path, json=body).raise_for_status().json()


def test_every_sampling_field_is_here() -> None:
    assert set(FIELDS) | LEFT_OUT == set(PLAIN) | {"seed", "stop"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_completions_field_is_the_engines_parameter(post, llm: LLM, name: str) -> None:
    given = {"max_tokens": 20, "seed": 11} | FIELDS[name]
    found = post("/v1/completions", {"prompt": PROMPT, "return_token_ids": True} | given)["choices"]
    (expected,) = llm.generate([PROMPT], SamplingParams(**given))
    assert [choice["token_ids"] for choice in found] == [list(sample.token_ids) for sample in expected.samples]
    assert [choice["text"] for choice in found] == [sample.text for sample in expected.samples]
    assert [choice["stop_reason"] for choice in found] == [sample.stop_reason for sample in expected.samples]


@pytest.mark.parametrize("name", FIELDS)
def test_a_chats_field_is_the_engines_parameter(post, llm: LLM, name: str) -> None:
    given = {"max_tokens": 20, "seed": 11} | FIELDS[name]
    found = post("/v1/chat/completions", {"messages": MESSAGES, "return_token_ids": True} | given)
    (expected,) = llm.generate([ChatPrompt(llm.tokenizer.apply_chat_template(MESSAGES))], SamplingParams(**given))
    assert [choice["token_ids"] for choice in found["choices"]] == [list(sample.token_ids) for sample in expected.samples]
    assert found["prompt_token_ids"] == list(expected.prompt_token_ids)


@pytest.mark.parametrize("name", sorted(set(FIELDS) - ELSEWHERE))
def test_the_values_above_change_something(llm: LLM, name: str) -> None:
    """Else a field that is ignored would pass."""
    given = {"max_tokens": 20, "seed": 11} | FIELDS[name]
    without = {key: value for key, value in given.items() if key != name} | ({"seed": 11} if name == "seed" else {})
    assert llm.generate([PROMPT], SamplingParams(**given))[0].text != llm.generate([PROMPT], SamplingParams(**without))[0].text


def test_a_salt_keeps_cached_prompts_apart(post) -> None:
    def cached(salt: str | None) -> int:
        found = post("/v1/completions", {"prompt": [7] * 300, "max_tokens": 1, "cache_salt": salt})
        return found["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert [cached("one"), cached("two"), cached(None)] == [0, 0, 0]
    assert min(cached("one"), cached("two"), cached(None)) >= 256


def test_a_parameter_of_ones_own(post, llm: LLM, server: Running) -> None:
    import examples.sampling_parameter  # noqa: F401  (registers no_repeat)

    given = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "return_token_ids": True}
    with_it = post("/v1/completions", given | {"extra": {"no_repeat": 2}})["choices"][0]["token_ids"]
    (expected,) = llm.generate([PROMPT], SamplingParams(max_tokens=24, temperature=0, extra={"no_repeat": 2}))
    assert with_it == list(expected.token_ids) != post("/v1/completions", given)["choices"][0]["token_ids"]
    refused = httpx.post(f"{server.url}/v1/completions", json=given | {"extra": {"none_such": 1}})
    assert refused.status_code == 400 and "none_such" in refused.json()["error"]["message"]


@pytest.mark.parametrize("wants", [True, False])
def test_tokens_may_be_named_by_their_ids(post, wants: bool) -> None:
    given = {"max_tokens": 4, "temperature": 0, "return_token_ids": True, "return_tokens_as_token_ids": wants}
    completion = post("/v1/completions", {"prompt": PROMPT, "logprobs": 1} | given)["choices"][0]
    chat = post("/v1/chat/completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1} | given)["choices"][0]
    names = [entry["token"] for entry in chat["logprobs"]["content"]]
    for tokens, ids in ((completion["logprobs"]["tokens"], completion["token_ids"]), (names, chat["token_ids"])):
        assert (tokens == [f"token_id:{token}" for token in ids]) is wants
