"""The text of an answer: it goes on where the prompt ends, loses nothing before `min_tokens`, and stops without delay."""

from __future__ import annotations

import pytest
import torch

from brigade.batch import Batch, Wanted
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.runner import LocalRunner
from brigade.engine.sampling import SamplingParams
from brigade.tokenizer import Tokenizer
from tests.engine.fakes import run_to_end
from tests.tokenizer.builders import BUILDERS

LETTERS = Tokenizer(BUILDERS["byte level"]())
LLAMA2 = Tokenizer(BUILDERS["sentencepiece"]())


class Script:
    """A model that says these ids after a prompt, whatever the prompt is."""

    def __init__(self, prompt_length: int, ids: list[int], vocab_size: int) -> None:
        self.start, self.ids, self.vocab_size = prompt_length, [*ids, 0], vocab_size

    def __call__(self, batch: Batch, cache: None) -> torch.Tensor:
        said = [self.ids[span.end - self.start] for span in batch.spans if span.wanted is not Wanted.NONE]
        return torch.nn.functional.one_hot(torch.tensor(said, dtype=torch.int64), self.vocab_size).float() * 10


def say(tokenizer: Tokenizer, prompt, ids: list[int], **params) -> tuple[RequestOutput, list[Delta]]:
    length = len(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
    controller = TextGenerationController(LocalRunner(Script(length, ids, tokenizer.vocab_size)), None, tokenizer)
    engine = DynamicEngine(controller, EngineConfig(block_size=8), 64, 512, tokenizer.vocab_size)
    name = engine.submit(prompt, SamplingParams(**{"temperature": 0.0, "max_tokens": len(ids)} | params))
    deltas = run_to_end(engine)
    output = engine.take_output(name)
    for sample in output.samples:
        assert "".join(delta.text for delta in deltas if delta.index == sample.index) == sample.text
    return output, deltas


def letters(text: str, **params) -> tuple[str, str, int | str | None]:
    """An answer that is spelled a character a token."""
    ids = [LETTERS.encode(char)[0] for char in text]
    output, _ = say(LETTERS, "prompt", ids, **params)
    return output.text, output.finish_reason, output.samples[0].stop_reason


def llama_ids(*tokens: str) -> list[int]:
    ids = [LLAMA2._inner.token_to_id(token) for token in tokens]
    assert None not in ids
    return ids


@pytest.mark.parametrize("include", [False, True])
def test_before_min_tokens_a_stop_string_is_text(include: bool) -> None:
    assert letters("abcdef", stop="bc", min_tokens=4, include_stop=include) == ("abcdef", "length", None)
    assert letters("abcdefgabc", stop="bc", min_tokens=4, include_stop=include) == ("abcdefga" + "bc" * include, "stop", "bc")


def test_before_min_tokens_a_stop_string_inside_one_token_takes_nothing_along() -> None:
    word = LETTERS.encode(" fibonacci")
    assert len(word) == 1, "one token of several characters"
    output, deltas = say(LETTERS, "prompt", word * 4, stop="bon", min_tokens=3)
    assert output.text == " fibonacci fibonacci fi" and len(output.token_ids) == 3
    assert [delta.text for delta in deltas] == [" fibonacci", " fibonacci", " fi"]


def test_the_token_that_reaches_min_tokens_may_complete_a_stop_string() -> None:
    assert letters("abcdef", stop="cd", min_tokens=5) == ("abcdef", "length", None)
    assert letters("abcdef", stop="cd", min_tokens=4) == ("ab", "stop", "cd")


def test_a_stop_string_may_begin_before_min_tokens() -> None:
    """Its beginning is held back as always: nothing of it is ever sent."""
    ids = [LETTERS.encode(char)[0] for char in "abcdef"]
    output, deltas = say(LETTERS, "prompt", ids, stop="bcde", min_tokens=4)
    assert output.text == "a" and [delta.text for delta in deltas] == ["a", "", "", "", ""]
    output, deltas = say(LETTERS, "prompt", ids, stop="bcx", min_tokens=6)
    assert output.text == "abcdef" and [delta.text for delta in deltas] == ["a", "", "", "bcd", "e", "f"]


def test_a_continuation_keeps_the_space_of_its_first_token() -> None:
    for prompt in ("def", LLAMA2.encode("def")):
        assert say(LLAMA2, prompt, llama_ids("▁ret"))[0].text == " ret"
        assert say(LLAMA2, prompt, llama_ids("▁ret"), echo=True)[0].text == "def ret"
    begin = llama_ids("<s>")
    assert say(LLAMA2, begin, llama_ids("▁ret"))[0].text == "ret", "nothing before it: the first word of a text"


def test_a_line_break_of_byte_tokens_stops_at_once() -> None:
    ids = llama_ids("▁ret", "<0x0A>", "x", "x")
    output, deltas = say(LLAMA2, "def", ids, stop="\n")
    assert (output.text, output.finish_reason, len(output.token_ids)) == (" ret", "stop", 2)
    assert output.metrics.steps == 2
    _, deltas = say(LLAMA2, "def", ids)
    assert [delta.text for delta in deltas] == [" ret", "\n", "x", "x"]


def test_a_character_that_begins_in_a_prompt_of_ids_is_whole() -> None:
    """As when a request is taken up again from the ids it had: what was sent and what follows make one text."""
    first, *rest = llama_ids("<0xE2>", "<0x82>", "<0xAC>")
    assert say(LLAMA2, [*llama_ids("x"), first], rest)[0].text == "€"
    assert say(LLAMA2, [*llama_ids("x"), first], rest, echo=True)[0].text == "x€"
    assert say(LLAMA2, [*llama_ids("x"), first], [], echo=True, max_tokens=0)[0].text == "x\ufffd"


@pytest.mark.parametrize("prompt", ["<end>def", "def<end>", "def  ", "naïve €"])
def test_echo_is_the_prompt_as_it_was_given(prompt: str) -> None:
    """Decoding would leave out the special tokens that were written."""
    ids = LETTERS.encode("x")
    output, deltas = say(LETTERS, prompt, ids, echo=True)
    assert output.prompt == prompt and output.text == prompt + "x"
    assert deltas[0].text == prompt
    assert say(LETTERS, prompt, [], echo=True, max_tokens=0)[0].text == prompt


def test_echo_gives_every_sample_its_prompt() -> None:
    output, _ = say(LETTERS, "<end>def", LETTERS.encode("x"), echo=True, n=3, temperature=0.5, top_k=1)
    assert [sample.text for sample in output.samples] == ["<end>defx"] * 3


def test_an_abort_gives_the_text_that_was_held_back() -> None:
    """The ids of a possible stop string are in the output, and so is its text."""
    ids = [LETTERS.encode(char)[0] for char in "abcd"]
    controller = TextGenerationController(LocalRunner(Script(1, ids, LETTERS.vocab_size)), None, LETTERS)
    engine = DynamicEngine(controller, EngineConfig(block_size=8), 64, 512, LETTERS.vocab_size)
    name = engine.submit([ids[0]], SamplingParams(temperature=0.0, max_tokens=9, stop="bcx"))
    deltas = [delta for _ in range(3) for delta in engine.step()]
    assert "".join(delta.text for delta in deltas) == "a"
    engine.abort(name)
    (last,) = engine.step()
    output = engine.take_output(name)
    assert (last.text, last.finish_reason, output.text, output.token_ids) == ("bc", "abort", "abc", ids[:3])
