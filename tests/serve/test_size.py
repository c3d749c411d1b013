"""How much one request may ask for: each limit is told with the value and the remedy, and what is just within it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brigade import LLM, SamplingParams
from brigade.engine.prompt import ChatPrompt
from brigade.errors import RequestError
from brigade.serve.job import Job
from brigade.serve.limits import MOST_BIASES, MOST_LOGPROBS, MOST_STOP_CHARACTERS, MOST_STOP_IDS, MOST_TOKENS
from brigade.serve.size import check_size
from tests.serve.raw import ask, is_error
from tests.serve.servers import Running, served_of, serving

BODY = {"prompt": "a", "max_tokens": 2, "temperature": 0}


def stops(characters: int) -> list[str]:
    """Several, of so many characters together, that no answer has."""
    return ["\u2603" * 1000] * (characters // 1000) + ["\u2603" * (characters % 1000)]


LISTS: dict[str, tuple[int, Any]] = {
    "stop": (MOST_STOP_CHARACTERS, stops),
    "stop_token_ids": (MOST_STOP_IDS, lambda count: [4095] * count),
    "logit_bias": (MOST_BIASES, lambda count: {str(token): 1 for token in range(count)}),
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_every_token_is_held_against_has_an_end(server: Running, name: str, path: str) -> None:
    most, made = LISTS[name]
    body = BODY if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    assert ask(server.port, path, body | {name: made(most)}).status == 200
    reply = ask(server.port, path, body | {name: made(most + 1)})
    assert reply.status == 400 and is_error(reply.json) and reply.json["error"]["param"] == name
    said = reply.json["error"]["message"]
    assert str(most + 1) in said and str(most) in said and "give fewer" in said


def test_one_long_stop_string_counts_as_several_short_ones(server: Running) -> None:
    reply = ask(server.port, "/v1/completions", BODY | {"stop": "x" * (MOST_STOP_CHARACTERS + 1)})
    assert reply.status == 400 and reply.json["error"]["param"] == "stop"


@pytest.mark.parametrize(
    ("positions", "prompts", "params"),
    [
        (131072, ["a"], {"n": 128, "max_tokens": None}), (10**6, ["a"] * 1024, {"max_tokens": 1 << 14}),
        (8192, ["a"] * 16, {"n": 128, "max_tokens": 10**9}),  # no answer is longer than the model
        (131072, ["x" * 2000] * 1024, {"max_tokens": 1, "logprobs": 1, "prompt_logprobs": 1, "echo": True}),  # as lm_eval asks
        (10**6, [ChatPrompt("x")], {"max_tokens": None, "logprobs": 20}),  # a chat on the longest model
        (99864, [ChatPrompt("x")], {"n": 2, "max_tokens": None, "logprobs": 20}),
        (131072, [[5] * 31208], {"n": 2, "max_tokens": None, "logprobs": 20}),  # what is left behind the prompt
        (131072, [[5] * 8000] * 5, {"prompt_logprobs": 100, "max_tokens": 1}),
    ],
)  # fmt: skip
def test_what_is_just_within_the_limits_is_asked(llm: LLM, positions: int, prompts: list[Any], params: dict[str, Any]) -> None:
    check_size(Job("id", 0, prompts, params), replace(served_of(llm), positions=positions))


@pytest.mark.parametrize(
    ("positions", "prompts", "params", "param", "words"),
    [
        (131073, ["a"], {"n": 128, "max_tokens": None}, "max_tokens",
         [f"n 128 and up to 131073 tokens in each answer are {128 * 131073}", str(MOST_TOKENS), "lower max_tokens or n"]),
        (10**6, ["a"] * 1024, {"max_tokens": 1 + (1 << 14)}, "max_tokens", ["1024 prompts with n 1", "16385"]),
        (99865, [ChatPrompt("x")], {"n": 2, "max_tokens": None, "logprobs": 20}, "logprobs",
         [str(2 * 99865 * 21), str(MOST_LOGPROBS), "ask for fewer"]),
        (131072, [[5] * 31207], {"n": 2, "max_tokens": None, "logprobs": 20}, "logprobs", [f"up to {131072 - 31207} tokens"]),
        (131072, [[5] * 8000] * 6, {"prompt_logprobs": 100, "max_tokens": 1}, "prompt_logprobs", [str(6 * 8000 * 101)]),
        (131072, ["\u2603" * 40000] * 10, {"prompt_logprobs": 20, "max_tokens": 1}, "prompt_logprobs", [str(10 * 120000 * 21)]),
        (10**5, [[5] * 9000], {"n": 128, "max_tokens": 1, "prompt_logprobs": 20, "echo": True, "logprobs": 20}, "logprobs",
         [str(128 * 9001 * 21)]),
    ],
)  # fmt: skip
def test_more_is_refused_with_its_size(
    llm: LLM, positions: int, prompts: list[Any], params: dict[str, Any], param: str, words: list[str]
) -> None:
    with pytest.raises(RequestError) as error:
        check_size(Job("id", 0, prompts, params), replace(served_of(llm), positions=positions))
    assert error.value.param == param
    assert all(word in str(error.value) for word in words), error.value


def test_the_field_is_called_as_the_request_calls_it(llm: LLM) -> None:
    """Which is the server's to say: the limits of a job know the engine's names."""
    with serving(llm) as server:
        server.app.served = replace(server.app.served, positions=1 << 20)
        body = {"messages": [{"role": "user", "content": "a"}], "n": 128}
        for name in ("max_tokens", "max_completion_tokens"):
            reply = ask(server.port, "/v1/chat/completions", body | {name: 1 << 18})
            assert reply.status == 400 and is_error(reply.json) and reply.json["error"]["param"] == name
            assert f"lower {name} or n" in reply.json["error"]["message"]


def test_a_request_that_asks_for_too_much_is_refused_before_it_runs(server: Running) -> None:
    """2,048 answers of the embedded model's 1,024 tokens are within the first limit, and their log-probabilities are not."""
    reply = ask(server.port, "/v1/completions", {"prompt": ["a"] * 16, "n": 128, "max_tokens": 1000, "logprobs": 20})
    assert reply.status == 400 and reply.json["error"]["param"] == "logprobs" and server.app.desk.open == 0


def test_ids_that_end_an_answer_are_looked_up_in_a_set(llm: LLM) -> None:
    params = SamplingParams(stop_token_ids=[9, 5, 9])
    assert params.stop_ids == {5, 9} and isinstance(params.stop_ids, frozenset) and params.stop_token_ids == (9, 5, 9)
    known = llm.generate(["a"], SamplingParams(temperature=0, max_tokens=8))[0].token_ids
    (output,) = llm.generate(["a"], SamplingParams(temperature=0, max_tokens=8, stop_token_ids=[4094, known[3]]))
    assert output.finish_reason == "stop" and output.token_ids == known[: known.index(known[3]) + 1]
