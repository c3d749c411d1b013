"""What a prompt may be: a text, a text that a chat template wrote, or token ids in any container that has an order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brigade.engine.prompt import ChatPrompt, EncodedPrompt, as_prompts, encode_prompt
from brigade.engine.sampling import SamplingParams
from brigade.errors import RequestError
from brigade.tokenizer import Tokenizer
from tests.engine.fakes import counting_engine
from tests.tokenizer.builders import CHATS

IDS = [5, 6, 7]
SPELLINGS = {
    "list": IDS,
    "tuple": tuple(IDS),
    "range": range(5, 8),
    "iterator": None,  # made anew for every test
    "numpy int64": np.array(IDS),
    "numpy uint8": np.array(IDS, np.uint8),
    "numpy objects": np.array(IDS, object),
    "list of numpy integers": list(np.array(IDS)),
    "torch": torch.tensor(IDS),
    "torch int32": torch.tensor(IDS, dtype=torch.int32),
    "list of torch scalars": list(torch.tensor(IDS)),
}


def spelled(name: str):
    return iter(IDS) if name == "iterator" else SPELLINGS[name]


@pytest.mark.parametrize("name", SPELLINGS)
def test_ids_are_read_from_any_container_that_has_an_order(name: str) -> None:
    encoded = encode_prompt(spelled(name), None)
    assert encoded == EncodedPrompt(IDS, None)
    assert {type(i) for i in encoded.token_ids} == {int}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_list_of_ids_is_one_prompt(name: str) -> None:
    (one,) = as_prompts(spelled(name))
    assert encode_prompt(one, None).token_ids == IDS


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_engine_takes_them_too(name: str) -> None:
    engine = counting_engine()
    engine.submit(spelled(name), SamplingParams(max_tokens=1), "one")
    assert engine.scheduler.waiting.head.prompt_token_ids == IDS


def test_many_prompts_stay_many() -> None:
    assert as_prompts([]) == []
    assert as_prompts("ab") == ["ab"]
    assert as_prompts(ChatPrompt("ab")) == [ChatPrompt("ab")]
    assert as_prompts(["ab", ChatPrompt("c"), IDS]) == ["ab", ChatPrompt("c"), IDS]
    assert as_prompts(text for text in "ab") == ["a", "b"]
    assert as_prompts(np.array(["ab", "c"])) == ["ab", "c"]
    for rows in (np.array([IDS, IDS]), torch.tensor([IDS, IDS]), [np.array(IDS), torch.tensor(IDS)]):
        assert [encode_prompt(row, None).token_ids for row in as_prompts(rows)] == [IDS, IDS]


BAD = [
    (None, "a prompt is None (NoneType); give a text, a ChatPrompt, or a list of token ids"),
    (5, "a prompt is 5 (int)"),
    (1.5, "a prompt is 1.5 (float)"),
    (True, "a prompt is True (bool)"),
    (b"abc", "a prompt is b'abc' (bytes)"),
    ({1, 2}, "a prompt is {1, 2} (set)"),
    ({"role": "user"}, "a conversation is for chat()"),
    ([1, 2.0], "token id 1 of a prompt is 2.0 (float)"),
    ([1.5, 2], "token id 0 of a prompt is 1.5 (float)"),
    ([1, None], "token id 1 of a prompt is None (NoneType)"),
    ([True, 2], "token id 0 of a prompt is True (bool)"),
    ([1, np.True_], "token id 1 of a prompt is"),
    ([1, "a"], "token id 1 of a prompt is 'a' (str)"),
    ([1, [2]], "token id 1 of a prompt is [2] (list)"),
    ([1, torch.tensor([2])], "token id 1 of a prompt is tensor([2]) (Tensor)"),
    ([1, torch.tensor(True)], "token id 1 of a prompt is tensor(True) (Tensor)"),
    ([1, "x" * 1000], "xxx... (str)"),
    (np.array([1.0, 2.0]), "a prompt is an array of float64; token ids are integers"),
    (np.array([True]), "a prompt is an array of bool"),
    (np.array([1, "a"], object), "of a prompt is an array of object"),
    (torch.tensor([1.0]), "a prompt is an array of torch.float32"),
    (np.zeros((2, 3), int), "a prompt is an array of 2 dimensions, shape (2, 3); give 1"),
    (torch.tensor(3), "a prompt is an array of 0 dimensions"),
]


@pytest.mark.parametrize(("prompt", "words"), BAD, ids=[words for _, words in BAD])
def test_anything_else_is_one_line(prompt, words: str) -> None:
    for read in (lambda: encode_prompt(prompt, None), lambda: counting_engine().submit(prompt)):
        with pytest.raises(RequestError) as refused:
            read()
        assert words.removeprefix("of ") in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "prompts", [None, 5, 1.5, b"abc", {"a": 1}, [None], [1.5, 2], [True], [b"a"], [[1, [2]]], [[[1]]]], ids=repr
)
def test_bad_prompts_among_many_are_refused_as_such(prompts) -> None:
    with pytest.raises(RequestError, match="prompt is"):
        [encode_prompt(prompt, None) for prompt in as_prompts(prompts)]


def test_a_text_needs_a_tokenizer() -> None:
    for prompt in ("a", ChatPrompt("a")):
        with pytest.raises(RequestError, match="no tokenizer"):
            encode_prompt(prompt, None)


def test_a_chat_prompt_is_no_text_and_cannot_lose_its_mark() -> None:
    prompt = ChatPrompt("<s>hello")
    with pytest.raises(TypeError):
        prompt + "x"  # type: ignore[operator]
    with pytest.raises(TypeError):
        "x" + prompt  # type: ignore[operator]
    with pytest.raises(RequestError, match="no text"):
        ChatPrompt(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_has_one_beginning_of_text(name: str) -> None:
    """As the templates of Llama 3 and Gemma write it, and their tokenizers add it."""
    inner, template, begin = CHATS[name]()
    tokenizer = Tokenizer(inner, inner.token_to_id(begin), chat_template=template)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "def"}])
    assert text.startswith(begin)
    assert tokenizer.encode(text).count(tokenizer.bos_id) == 2, "encoded as plain text it would have two"
    encoded = encode_prompt(ChatPrompt(text), tokenizer)
    assert encoded.text == text
    assert encoded.token_ids[0] == tokenizer.bos_id and encoded.token_ids.count(tokenizer.bos_id) == 1
    assert encode_prompt("def", tokenizer).token_ids[0] == tokenizer.bos_id
