"""Measuring a server over HTTP: what is sent, how tokens are counted, what is refused; with a fake server, and with ours."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from brigade import LLM
from brigade.bench.http_client import Address
from brigade.bench.openai_server import OpenAIServer, ServedModel, as_texts
from brigade.bench.serving import Load, Served, drive, spread
from brigade.bench.workload import Simulated
from brigade.cli.main import main
from brigade.errors import ConfigError
from tests.bench.http_servers import STREAM, Bytes, chunked, event, listening, token, usage, whole
from tests.serve.servers import Running, serving

REQUESTS = [Simulated(number, [5, 6, number], 3) for number in range(4)]
DONE = event(b"[DONE]")


def served_by(
    answer: Callable[..., Sequence[bytes]], requests: Sequence[Simulated] = REQUESTS
) -> tuple[Served, OpenAIServer, Bytes]:
    made = Bytes(answer)

    async def run() -> tuple[Served, OpenAIServer, Bytes]:
        async with listening(made) as url:
            server = OpenAIServer(Address.of(url), "some")
            try:
                return await asyncio.wait_for(drive(server.ask, requests, Load(clients=2)), 10), server, made
            finally:
                server.close()

    return asyncio.run(run())


def says(*events: bytes) -> Callable[..., Sequence[bytes]]:
    return lambda method, path, body: [STREAM, chunked(*events)]


def test_the_request_asks_for_a_greedy_answer_of_exactly_so_many_tokens() -> None:
    _, _, made = served_by(says(token("a"), token("b"), token("c", "length"), usage(3), DONE))
    assert made.bodies[0] == {
        "model": "some", "prompt": [5, 6, 0], "max_tokens": 3, "temperature": 0.0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert all(head.startswith("POST /v1/completions ") for head in made.heads) and made.connections == 2


@pytest.mark.parametrize(
    "events",
    [
        [token("a"), token("b"), token("c", "length"), usage(3)],
        [token("a"), token(""), token("b"), token("", "length"), usage(3)],  # an end that brings nothing; text that is held back
        [event({"choices": [{"text": "a", "finish_reason": None}], "usage": None}), token("b"), token("c", "length"), usage(3)],
        [token(""), token(""), token("", "length"), usage(3)],  # a server without a tokenizer
        [token("a"), token("b"), token("c", "length")],  # no usage
    ],
)
def test_a_chunk_that_brings_something_is_a_token(events: list[bytes]) -> None:
    served, server, _ = served_by(says(*events, DONE))
    assert [(len(one.tokens), one.arrivals, one.error) for one in served.timings] == [(3, 3, None)] * 4
    told = events[-1] == usage(3)
    assert server.notes([served]) == (
        ["prompts had 7.0 tokens on average"] if told else ["4 of 4 answers told no usage: their tokens are their chunks"]
    )


def test_tokens_that_came_together_are_counted_by_the_usage() -> None:
    served, server, _ = served_by(says(token("a"), token("bc", "length"), usage(3), DONE))
    assert [(len(one.tokens), one.arrivals) for one in served.timings] == [(3, 2)] * 4 and served.tokens == 12
    assert "12 tokens came in 8 chunks" in server.notes([served])[0]


@pytest.mark.parametrize(
    ("counts", "total", "found"),
    [([1, 1, 1], 3, [1, 1, 1]), ([1, 1, 1], None, [1, 1, 1]), ([2, 1], 3, [2, 1]), ([1, 1], 3, [2, 1]),
     ([1, 1, 1, 1], 6, [2, 1, 2, 1]), ([1, 1, 1], 2, [1, 1, 0]), ([1, 1, 1, 1], 1, [1, 0, 0, 0]), ([], 3, [])],
)  # fmt: skip
def test_a_total_is_spread_over_the_moments(counts: list[int], total: int | None, found: list[int]) -> None:
    moments = spread([(float(place), count) for place, count in enumerate(counts)], total)
    assert [count for _, count in moments] == found and [moment for moment, _ in moments] == list(map(float, range(len(counts))))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(token("a", "stop"), usage(1), DONE), "3 tokens was asked for, and one of 1 came"),
        (says(token("a"), event({"error": {"message": "it broke"}}), DONE), "it broke"),
        (lambda *request: [whole({"error": {"message": "no ids", "type": "x"}}, "400 Bad Request")], "status 400: no ids"),
        (lambda *request: [whole({"detail": "closed"}, "503 Busy")], "status 503: closed"),
        (lambda *request: [STREAM, chunked(token("a")).removesuffix(b"0\r\n\r\n"), b"zz\r\n"], "b'zz' is no size"),
    ],
)
def test_what_fails_is_told_and_counts_as_failed(answer: Callable[..., Sequence[bytes]], words: str) -> None:
    served, _, _ = served_by(answer)
    assert all(words in str(one.error) for one in served.timings) and not served.good


@pytest.mark.parametrize(
    ("told", "model"),
    [({"id": "m", "max_model_len": 64}, ServedModel("m", None, 64)),
     ({"id": "m", "meta": {"n_vocab": 99, "n_ctx_train": 32}}, ServedModel("m", 99, 32)),
     ({"id": "m"}, ServedModel("m", None, None))],
)  # fmt: skip
def test_what_is_told_of_a_model(told: dict[str, Any], model: ServedModel) -> None:
    assert ask_for_models([whole({"data": [told]})]) == [model]


def test_what_tells_no_models_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no list of models \(who are you\); give an address that ends in /v1"):
        ask_for_models([whole({"error": {"message": "who are you"}}, "401 Unauthorized")])


def ask_for_models(pieces: Sequence[bytes]) -> list[ServedModel]:
    async def run() -> list[ServedModel]:
        async with listening(Bytes(lambda *request: pieces)) as url:
            server = OpenAIServer(Address.of(url))
            try:
                return await server.models()
            finally:
                server.close()

    return asyncio.run(run())


def test_words_in_place_of_ids_are_as_many_and_the_same_for_a_seed() -> None:
    texts = as_texts(REQUESTS, 1)
    assert texts == as_texts(REQUESTS, 1) != as_texts(REQUESTS, 2)
    assert [len(one.prompt.split()) for one in texts] == [3] * 4 and [one.max_tokens for one in texts] == [3] * 4


# The command, and our server


@pytest.fixture(scope="module")
def ours() -> Iterator[Running]:
    with LLM(max_batch_size=8, kv_blocks=64) as llm, serving(llm, keys=["a-long-key"]) as made:
        yield made


SMALL = ["--num-requests", "6", "--prompt-length", "2", "5", "--output-length", "1", "6"]


@pytest.mark.parametrize("more", [[], ["--prompts", "text"], ["--vocab-size", "4096", "--model", "mini"]])
def test_our_server_is_driven_with_every_load(ours: Running, more: list[str], tmp_path: Path, capsys) -> None:
    where = ["bench", "serve", "--url", f"{ours.url}/v1", "--api-key", "a-long-key", *SMALL]
    assert main([*where, *more, "--clients", "1", "4", "--json", str(tmp_path / "a.json"), "--svg", str(tmp_path / "a.svg")]) == 0
    assert main([*where, *more, "--rate", "200", "--arrivals", "fixed"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"mini at {ours.url}/v1 | 6 requests each, prompts of 2 to 5 {'words' if '--prompts' in more else 'ids'}"
    )
    assert "4 clients" in said and "200 requests/s" in said
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["answers"] == facts["answers_with_usage"] == 12 and facts["model"] == "mini"
    for load in facts["loads"]:
        assert load["errors"] == [] and load["tokens"] == sum(len(one["tokens"]) for one in load["timings"]) >= 6
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--api-key", "another-key"], "this API key is not known here"),
        (["--api-key", "a-long-key", "--model", "gpt"], "no model 'gpt' at .*; there is mini, other"),
        (["--api-key", "a-long-key", "--output-length", "1", "2000"], "may have 2005 positions, but mini has"),
        (["--keys", "folder"], "--keys has no effect with --url"),
        (["--connect", "tcp://127.0.0.1:1"], "--connect has no effect with --url"),
        (["--prompts", "text", "--vocab-size", "9"], "--vocab-size has no effect with --prompts text"),
        (["--vocab-size", "0"], "--vocab-size is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(ours: Running, more: list[str], words: str, capsys) -> None:
    assert main(["bench", "serve", "--url", f"{ours.url}/v1", *SMALL, *more]) != 0
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize("option", [["--api-key", "k"], ["--prompts", "ids"], ["--vocab-size", "9"]])
def test_what_needs_a_url_is_refused_without_one(option: list[str], capsys) -> None:
    assert main(["bench", "serve", *option]) != 0
    assert f"{option[0]} has no effect without --url; drop it" in capsys.readouterr().err
