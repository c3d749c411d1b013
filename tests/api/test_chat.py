"""A chat: the template's text with the special tokens that it wrote, and none beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from brigade import LLM, SamplingParams
from brigade.checkpoint.load import EMBEDDED
from brigade.errors import RequestError, UserError

GREEDY = SamplingParams(max_tokens=6, temperature=0.0)
BEGIN = "<|endoftext|>"
MESSAGES = [{"role": "user", "content": "sort a list"}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> LLM:
    """The embedded model behind a tokenizer that begins every text with a token, and a template that writes it too."""
    folder = Path(shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("model") / "with_bos"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    begin = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == BEGIN)
    piece = {"id": BEGIN, "type_id": 0}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": piece}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [begin], "tokens": [BEGIN]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ bos_token }}{% for m in messages %}# {{ m.content }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return LLM(folder, kv_blocks=64)


def test_a_chat_prompt_has_one_beginning_of_text(llm: LLM) -> None:
    begin = llm.tokenizer.bos_id
    (plain,) = llm.generate("# sort a list\n", GREEDY)
    assert plain.prompt_token_ids[0] == begin, "the tokenizer adds it to a text"
    (chat,) = llm.generate(llm.chat_prompt(MESSAGES), GREEDY)
    assert chat.prompt_token_ids == plain.prompt_token_ids and chat.token_ids == plain.token_ids
    assert chat.prompt == f"{BEGIN}# sort a list\n"


def test_chat_prompts_join_others_in_one_call(llm: LLM) -> None:
    prompt = llm.chat_prompt(MESSAGES)
    outputs = llm.generate([prompt, "# sort a list\n", prompt], GREEDY)
    assert len({tuple(output.prompt_token_ids) for output in outputs}) == 1
    assert llm.logits(prompt)[0].equal(llm.logits("# sort a list\n")[0])
    assert "".join(delta.text for delta in llm.stream(prompt, GREEDY)) == outputs[0].text


def test_chat_answers_one_conversation(llm: LLM) -> None:
    answer = llm.chat(MESSAGES, GREEDY)
    assert answer.token_ids == llm.generate(llm.chat_prompt(MESSAGES), GREEDY)[0].token_ids
    assert answer.prompt_token_ids.count(llm.tokenizer.bos_id) == 1
    with pytest.raises(UserError, match="messages"):
        llm.chat("sort a list", GREEDY)  # type: ignore[arg-type]


def test_echo_shows_a_chat_as_the_template_wrote_it(llm: LLM) -> None:
    answer = llm.chat(MESSAGES, SamplingParams(max_tokens=1, temperature=0.0, echo=True))
    assert answer.text.startswith(f"{BEGIN}# sort a list\n")


def test_messages_given_as_a_prompt_are_sent_to_chat(llm: LLM) -> None:
    with pytest.raises(UserError, match=r"for chat\(\)"):
        llm.generate(MESSAGES, GREEDY)  # type: ignore[arg-type]


def test_arrays_of_ids_are_prompts(llm: LLM) -> None:
    expected = llm.generate([[5, 6, 7], [8, 9, 10]], GREEDY)
    found = llm.generate(np.array([[5, 6, 7], [8, 9, 10]]), GREEDY)
    assert [output.token_ids for output in found] == [output.token_ids for output in expected]
    (one,) = llm.generate(np.array([5, 6, 7]), GREEDY)
    assert one.token_ids == expected[0].token_ids and one.prompt_token_ids == [5, 6, 7]


@pytest.mark.parametrize(
    ("messages", "words"), [("hi", "this is a str"), (None, "this is a NoneType"), ([], "this is an empty list")]
)
def test_what_is_no_conversation_is_one_line(messages, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        LLM.chat_prompt(SimpleNamespace(tokenizer=None), messages)
