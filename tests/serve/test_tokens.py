"""`/tokenize` and `/detokenize` say what text and ids are to this model, as the engine reads them."""

from __future__ import annotations

import httpx
import pytest

from brigade import LLM, SamplingParams
from brigade.engine.prompt import encode_prompt
from tests.serve.servers import Running, serving

TEXT = "def fibonacci(n):\n    größe = 'ß…'"
MESSAGES = [{"role": "user", "content": "sort a list"}]
TEMPLATE = "{{ style }}{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture
def ask(server: Running):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield lambda path, **body: client.post(path, json=body)


def test_a_text_becomes_the_ids_that_the_engine_would_read(ask, llm: LLM) -> None:
    found = ask("/tokenize", prompt=TEXT).json()
    ids = encode_prompt(TEXT, llm.tokenizer).token_ids
    assert found == {"count": len(ids), "max_model_len": 1024, "tokens": list(ids), "token_strs": None}


def test_each_token_has_its_text(ask, llm: LLM) -> None:
    found = ask("/tokenize", prompt=TEXT, return_token_strs=True).json()
    assert found["token_strs"] == [llm.tokenizer.token_text(token) for token in found["tokens"]]
    assert "".join(found["token_strs"][:5]) == TEXT[: len("".join(found["token_strs"][:5]))]


def test_ids_become_the_text_again(ask) -> None:
    assert ask("/detokenize", tokens=ask("/tokenize", prompt=TEXT).json()["tokens"]).json() == {"prompt": TEXT}
    assert ask("/detokenize", tokens=[]).json() == {"prompt": ""}


def test_a_conversation_becomes_the_ids_of_its_prompt(ask, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, SamplingParams(max_tokens=1)).prompt_token_ids
    assert ask("/tokenize", messages=MESSAGES).json()["tokens"] == list(expected)


def test_null_is_silence(ask) -> None:
    nulls = dict.fromkeys(("model", "messages", "add_special_tokens", "add_generation_prompt", "return_token_strs"))
    assert ask("/tokenize", prompt="a", **nulls).json() == ask("/tokenize", prompt="a").json()


def test_what_a_template_reads_is_given_to_it_and_to_nothing_else(llm: LLM) -> None:
    with serving(llm, tokenizer=llm.tokenizer.with_template(TEMPLATE)) as server, httpx.Client(base_url=server.url) as client:

        def text(**body) -> str:
            tokens = client.post("/tokenize", json={"messages": [{"role": "user", "content": "a"}], **body}).json()["tokens"]
            return client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]

        assert text() == "a>" and text(add_generation_prompt=False) == "a"
        assert text(chat_template_kwargs={"style": "x"}, add_generation_prompt=False) == "xa"
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "return_token_ids": True}
        said = client.post("/v1/chat/completions", json=chat | {"chat_template_kwargs": {"style": "x"}}).json()
        assert client.post("/detokenize", json={"tokens": said["prompt_token_ids"]}).json()["prompt"] == "xa>"


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/tokenize", {}, "prompt", "give prompt, or messages"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt", "not both"),
        ("/tokenize", {"messages": []}, "messages", "empty"),
        ("/tokenize", {"messages": [{}]}, "messages[0].role", r"messages[0]"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens", "no effect on messages"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt", "no effect on a prompt"),
        ("/tokenize", {"prompt": "a", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs", "no effect on a prompt"),
        ("/tokenize", {"prompt": "a", "top_k": 1}, "top_k", "not a field"),
        ("/detokenize", {}, "tokens", "missing"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]", "it must be an integer, not a text"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens", "names -1"),
        ("/detokenize", {"tokens": [4096]}, "tokens", "from 0 to 4095"),
        ("/detokenize", {"tokens": [2**90]}, "tokens", "from 0 to 4095"),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_by_name(ask, path, body, param, words) -> None:
    answer = ask(path, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and words in error["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/chat/completions"])
@pytest.mark.parametrize("given", [{"self": 1}, {"messages": []}, {"add_generation_prompt": "yes"}, {"unread": 1}], ids=str)
def test_a_variable_of_a_template_may_be_called_anything_and_breaks_nothing(ask, path, given) -> None:
    answer = ask(path, messages=MESSAGES, chat_template_kwargs=given)
    assert answer.status_code == 400 and next(iter(given)) in answer.json()["error"]["message"]


def test_a_model_that_is_not_served_has_no_tokens_here(ask) -> None:
    assert (
        ask("/tokenize", prompt="a", model="large").status_code == ask("/detokenize", tokens=[1], model="large").status_code == 404
    )
    assert ask("/tokenize", prompt="a", model="other").status_code == 200


def test_a_template_reads_how_much_to_think(llm: LLM) -> None:
    template = "{{ reasoning_effort }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with serving(llm, tokenizer=llm.tokenizer.with_template(template)) as server:
        chat = {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True, "reasoning_effort": "low"}
        said = httpx.post(f"{server.url}/v1/chat/completions", json=chat).json()
        assert llm.tokenizer.decode(said["prompt_token_ids"]) == "lowsort a list"


def test_a_template_that_does_not_read_how_much_to_think_says_so(ask) -> None:
    answer = ask("/v1/chat/completions", messages=MESSAGES, reasoning_effort="low")
    assert answer.status_code == 400 and "reasoning_effort is not read" in answer.json()["error"]["message"]


def test_special_tokens_are_added_unless_that_is_refused(llm: LLM) -> None:
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    from brigade.tokenizer import Tokenizer

    inner = tokenizers.Tokenizer.from_str(llm.tokenizer._inner.to_str())
    inner.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", llm.tokenizer.eos_ids[0])]
    )
    with (
        serving(llm, tokenizer=Tokenizer(inner, eos_ids=llm.tokenizer.eos_ids)) as server,
        httpx.Client(base_url=server.url) as client,
    ):

        def ids(**body) -> list[int]:
            return client.post("/tokenize", json={"prompt": "a", **body}).json()["tokens"]

        assert ids() == ids(add_special_tokens=True) == [llm.tokenizer.eos_ids[0], *ids(add_special_tokens=False)]
        assert ids(add_special_tokens=False) == llm.tokenizer.encode("a")
        assert (
            client.post("/tokenize", json={"messages": MESSAGES})
            .json()["error"]["message"]
            .startswith("this model has no chat template")
        )
