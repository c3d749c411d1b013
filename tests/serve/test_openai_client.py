"""OpenAI's own client, blocking and asynchronous, cannot tell this server from theirs; and what it says is what the engine says."""

from __future__ import annotations

import asyncio

import openai
import pytest

from brigade import LLM, SamplingParams
from tests.serve.servers import Running

PROMPT = "def fibonacci(n):"
MESSAGES = [{"role": "user", "content": "sort a list"}]


@pytest.fixture
def client(server: Running):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def alone(llm: LLM, prompt, **params):
    return llm.generate([prompt], SamplingParams(**params))[0]


def test_the_models(client) -> None:
    assert [model.id for model in client.models.list()] == ["mini", "other"]
    assert client.models.retrieve("mini").id == "mini"
    with pytest.raises(openai.NotFoundError, match="'large' is not served here"):
        client.models.retrieve("large")


def test_a_completion(client, llm: LLM) -> None:
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=12, temperature=0)
    expected = alone(llm, PROMPT, max_tokens=12, temperature=0)
    assert found.choices[0].text == expected.text and found.choices[0].finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(expected.prompt_token_ids), 12)
    assert found.system_fingerprint == f"{llm.numerics_id}-{llm.fingerprint}" and found.object == "text_completion"
    assert found.id.startswith("cmpl-") and found.model == "mini"


@pytest.mark.parametrize("prompt", [["a = ", "b = "], [5, 6, 7], [[5, 6, 7], [8, 9]]], ids=["texts", "ids", "lists of ids"])
def test_prompts_of_every_kind_with_several_answers_each(client, llm: LLM, prompt) -> None:
    found = client.completions.create(model="mini", prompt=prompt, max_tokens=5, n=2, seed=7, temperature=0.8)
    prompts = [prompt] if isinstance(prompt[0], int) else prompt
    expected = [sample.text for one in prompts for sample in alone(llm, one, max_tokens=5, n=2, seed=7, temperature=0.8).samples]
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == list(range(2 * len(prompts)))


def test_a_stream_of_completions_joins_to_the_whole(client) -> None:
    settings = {"model": "mini", "prompt": [PROMPT, "import "], "max_tokens": 9, "seed": 3, "n": 2}
    whole = client.completions.create(**settings)
    texts, ends, usage = ["", "", "", ""], {}, None
    for chunk in client.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_stream_has_no_usage_unless_it_is_asked_for(client) -> None:
    chunks = list(client.completions.create(model="mini", prompt="a", max_tokens=2, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_log_probabilities_of_completions(client, llm: LLM) -> None:
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3)
    rows = alone(llm, PROMPT, max_tokens=6, temperature=0, logprobs=3).logprobs
    said = found.choices[0].logprobs
    assert said.token_logprobs == [row.logprob for row in rows]
    assert said.tokens == [llm.tokenizer.token_text(row.token_id) for row in rows]
    assert all(len(top) == 3 for top in said.top_logprobs)
    assert "".join(said.tokens) == found.choices[0].text
    assert said.text_offset == [len("".join(said.tokens[:place])) for place in range(6)]


def test_an_echo_has_the_prompt_and_its_log_probabilities(client, llm: LLM) -> None:
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=2, temperature=0, logprobs=1, echo=True)
    expected = alone(llm, PROMPT, max_tokens=2, temperature=0, logprobs=1, prompt_logprobs=1)
    said = found.choices[0].logprobs
    assert found.choices[0].text == PROMPT + expected.text
    assert said.token_logprobs[0] is None
    rows = [*expected.prompt_logprobs[1:], *expected.logprobs]
    assert said.token_logprobs[1:] == [row.logprob for row in rows]


def test_an_echo_in_a_stream_says_the_same(client) -> None:
    settings = {"model": "mini", "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logprobs": 2, "echo": True}
    whole = client.completions.create(**settings).choices[0]
    chunks = [chunk.choices[0] for chunk in client.completions.create(**settings, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    rows = [logprob for chunk in chunks if chunk.logprobs for logprob in chunk.logprobs.token_logprobs]
    assert rows == whole.logprobs.token_logprobs
    assert [t for chunk in chunks if chunk.logprobs for t in chunk.logprobs.text_offset] == whole.logprobs.text_offset


def test_a_chat(client, llm: LLM) -> None:
    found = client.chat.completions.create(model="mini", messages=MESSAGES, max_completion_tokens=10, temperature=0)
    expected = llm.chat(MESSAGES, SamplingParams(max_tokens=10, temperature=0))
    choice = found.choices[0]
    assert choice.message.content == expected.text and choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason and found.id.startswith("chatcmpl-")
    assert found.usage.prompt_tokens == len(expected.prompt_token_ids)


def test_a_chat_without_a_length_goes_on_to_the_models_limit(client) -> None:
    found = client.chat.completions.create(model="mini", messages=MESSAGES, seed=1, extra_body={"ignore_eos": True})
    assert found.usage.total_tokens == 1024 and found.choices[0].finish_reason == "length"


def test_a_stream_of_a_chat_joins_to_the_whole(client) -> None:
    settings = {"model": "mini", "messages": MESSAGES, "max_tokens": 12, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**settings)
    texts, ends, roles = ["", ""], {}, []
    for chunk in client.chat.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.delta.role] * bool(choice.delta.role)
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {0: whole.choices[0].finish_reason, 1: whole.choices[1].finish_reason} and roles == ["assistant"] * 2


def test_log_probabilities_of_a_chat(client, llm: LLM) -> None:
    settings = {"model": "mini", "messages": MESSAGES, "max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    content = client.chat.completions.create(**settings).choices[0].logprobs.content
    rows = llm.chat(MESSAGES, SamplingParams(max_tokens=4, temperature=0, logprobs=2)).logprobs
    assert [entry.logprob for entry in content] == [row.logprob for row in rows]
    assert all(len(entry.top_logprobs) == 2 and bytes(entry.bytes).decode() == entry.token for entry in content)
    streamed = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**settings, stream=True)]
    assert [entry.logprob for one in streamed if one for entry in one.content] == [row.logprob for row in rows]


def test_stop_strings_and_biases(client) -> None:
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=40, temperature=0, stop=["self", "."])
    assert found.choices[0].finish_reason == "stop" and "self" not in found.choices[0].text
    biased = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=3, temperature=0, logit_bias={"260": -100, "14": 100}
    )
    assert biased.choices[0].text.startswith(".")


def test_a_negative_seed_is_a_seed(client) -> None:
    texts = [
        client.completions.create(model="mini", prompt="a", max_tokens=8, seed=seed).choices[0].text for seed in (-3, -3, 2**62)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_our_further_parameters_go_into_the_body(client, llm: LLM) -> None:
    extra = {"top_k": 3, "min_p": 0.01, "repetition_penalty": 1.2, "return_token_ids": True, "prompt_logprobs": 1}
    found = client.completions.create(model="mini", prompt=PROMPT, max_tokens=6, seed=9, extra_body=extra)
    params = {name: extra[name] for name in ("top_k", "min_p", "repetition_penalty", "prompt_logprobs")}
    expected = alone(llm, PROMPT, max_tokens=6, seed=9, **params)
    choice = found.choices[0]
    assert choice.token_ids == expected.token_ids and choice.prompt_token_ids == expected.prompt_token_ids
    assert choice.prompt_logprobs[0] is None
    second = expected.prompt_logprobs[1]
    assert choice.prompt_logprobs[1][str(second.token_id)]["logprob"] == second.logprob


def test_the_asynchronous_client_many_at_once(server: Running, llm: LLM) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.completions.create(model="mini", prompt=PROMPT, max_tokens=10, seed=seed, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(one, range(24)))

    assert asyncio.run(ask()) == [alone(llm, PROMPT, max_tokens=10, seed=seed).text for seed in range(24)]


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"temperature": 3000.0}, "temperature", "from 0 to 100"),
        ({"max_tokens": 5000}, "prompt", "limit of 1024 positions"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 3}, "best_of", "not supported"),
        ({"n": 1000}, "n", "128"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
        ({"extra_body": {"top_quark": 1}}, "top_quark", "not a field"),
        ({"extra_body": {"store": True}}, "store", "false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "no effect"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_refused_by_name(client, settings, param, words) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        client.completions.create(model="mini", prompt="a", **settings)
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "harmless", [{"user": "me"}, {"extra_body": {"metadata": {"a": "b"}, "store": False, "service_tier": "auto"}}]
)
def test_what_changes_nothing_is_taken(client, harmless) -> None:
    assert client.completions.create(model="mini", prompt="a", max_tokens=1, **harmless).choices


def test_a_model_that_is_not_served(client) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-99", messages=MESSAGES)
    assert refused.value.code == "model_not_found"


def test_messages_that_are_none(client) -> None:
    with pytest.raises(openai.BadRequestError, match="messages is empty"):
        client.chat.completions.create(model="mini", messages=[])
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]"):
        client.chat.completions.create(model="mini", messages=[{"content": "no role"}])
