"""`langchain-openai` talks to the server unchanged: completions, chats, streams, log-probabilities, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from brigade import LLM, SamplingParams
from tests.serve.servers import Running

neighbour = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed: pip install 'brigade-llm[test]'")

PROMPT = "def fibonacci(n):"
MESSAGES = [{"role": "user", "content": "sort a list"}]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a caller's environment, and no report to anybody."""
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL", "OPENAI_PROXY", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


@pytest.fixture
def settings(server: Running) -> dict:
    return {"base_url": f"{server.url}/v1", "api_key": "none", "model": "mini", "max_retries": 0, "temperature": 0}


def test_a_completion(settings, llm: LLM) -> None:
    expected = llm.generate([PROMPT], SamplingParams(max_tokens=12, temperature=0))[0]
    model = neighbour.OpenAI(**settings, max_tokens=12)
    assert model.invoke(PROMPT) == expected.text
    assert "".join(model.stream(PROMPT)) == expected.text
    assert asyncio.run(model.ainvoke(PROMPT)) == expected.text


def test_several_prompts_of_one_call(settings, llm: LLM) -> None:
    prompts = ["import ", PROMPT, "a = "]
    expected = llm.generate(prompts, SamplingParams(max_tokens=8, temperature=0))
    found = neighbour.OpenAI(**settings, max_tokens=8).generate(prompts)
    assert [one.text for (one,) in found.generations] == [output.text for output in expected]
    tokens = sum(len(output.prompt_token_ids) + 8 for output in expected)
    assert found.llm_output["token_usage"]["total_tokens"] == tokens


def test_a_chat(settings, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, SamplingParams(max_tokens=10, temperature=0))
    model = neighbour.ChatOpenAI(**settings, max_tokens=10)
    found = model.invoke(MESSAGES)
    assert found.content == expected.text and found.usage_metadata["output_tokens"] == 10
    assert found.response_metadata["system_fingerprint"] == f"{llm.numerics_id}-{llm.fingerprint}"
    assert asyncio.run(model.ainvoke(MESSAGES)).content == expected.text


def test_a_stream_of_a_chat_with_its_usage(settings, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, SamplingParams(max_tokens=10, temperature=0))
    chunks = list(neighbour.ChatOpenAI(**settings, max_tokens=10, stream_usage=True).stream(MESSAGES))
    assert "".join(chunk.content for chunk in chunks) == expected.text
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["input_tokens"] == len(expected.prompt_token_ids) and whole.usage_metadata["output_tokens"] == 10


def test_log_probabilities_of_a_chat(settings, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, SamplingParams(max_tokens=4, temperature=0, logprobs=2))
    found = neighbour.ChatOpenAI(**settings, max_tokens=4, logprobs=True, top_logprobs=2).invoke(MESSAGES)
    said = found.response_metadata["logprobs"]["content"]
    assert [entry["logprob"] for entry in said] == [row.logprob for row in expected.logprobs]
    assert all(len(entry["top_logprobs"]) == 2 for entry in said)


def test_a_refusal_arrives_as_one(settings) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match='"top_quark" is not a field'):
        neighbour.ChatOpenAI(**settings, extra_body={"top_quark": 1}).invoke(MESSAGES)
