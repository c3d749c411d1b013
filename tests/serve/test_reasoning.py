"""What a model thinks is told from what it says, wherever the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brigade.serve.reasoning import MARKS, Piece, ReasoningSplitter, detect_reasoning
from tests.serve import templates
from tests.serve.templates import chat

THINK, MISTRAL = MARKS


def split(splitter: ReasoningSplitter, pieces: list[str]) -> tuple[str, str]:
    said = [one for piece in pieces for one in splitter.feed(piece)] + splitter.finish()
    assert all(one.text for one in said)
    return tuple("".join(one.text for one in said if one.kind == kind) for kind in ("reasoning", "content"))


@pytest.mark.parametrize(
    ("text", "is_open", "reasoning", "content"),
    [
        ("<think>\nhm, so\n\nyes\n</think>\n\nHello \n", False, "hm, so\n\nyes", "Hello \n"),
        ("\n<think>hm</think>Hello", False, "hm", "Hello"),
        ("hm\n</think>\n\nHello", True, "hm", "Hello"),
        ("<think>\nhm</think>Hello", True, "hm", "Hello"),  # the prompt wrote the mark, and the model once more
        ("hm <think> again</think>Hello", True, "hm <think> again", "Hello"),
        (" \n Hello <think>no</think>", False, "", " \n Hello <think>no</think>"),
        ("<think>\n\n</think>\n\nHello", False, "", "Hello"),
        ("<think>a</think>b</think><think>c</think>", False, "a", "b</think><think>c</think>"),
        ("<think>a < b </thin </think> c", False, "a < b </thin", "c"),
        ("<think>never closed  ", False, "never closed", ""),
        ("cut inside a mark</thi", True, "cut inside a mark</thi", ""),
        ("<thi", False, "", "<thi"),
        ("  ", False, "", "  "),
        ("", False, "", ""),
        ("", True, "", ""),
        ("<<think>a</think>", False, "", "<<think>a</think>"),
    ],
)
def test_reasoning_is_what_stands_in_the_marks_at_the_beginning(text: str, is_open: bool, reasoning: str, content: str) -> None:
    for size in (1, 2, 3, 1000):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert split(ReasoningSplitter(THINK, is_open), pieces) == (reasoning, content)


WORDS = ["<think>", "</think>", "<", "/", "think", ">", " ", "\n", "a", "é"]


@given(st.lists(st.sampled_from(WORDS), max_size=16).map("".join), st.booleans(), st.data())
def test_cuts_change_nothing(text: str, is_open: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(ReasoningSplitter(THINK, is_open), pieces) == split(ReasoningSplitter(THINK, is_open), [text])


@given(st.lists(st.sampled_from(WORDS), max_size=16).map("".join), st.booleans())
def test_what_is_held_back_is_white_space_or_the_beginning_of_a_mark(text: str, is_open: bool) -> None:
    splitter, fed = ReasoningSplitter(THINK, is_open), ""
    for char in text:
        splitter.feed(char)
        fed += char
        held = (splitter._space + splitter._part).strip()
        assert fed.endswith(held) and any(mark.startswith(held) for mark in (THINK.opens, THINK.closes))


def test_content_passes_as_it_comes() -> None:
    splitter = ReasoningSplitter(THINK)
    assert splitter.feed("<think>a") == [Piece("reasoning", "a")] and splitter.is_inside
    assert splitter.feed("b</think>\n\nc d ") == [Piece("reasoning", "b"), Piece("content", "c d ")] and not splitter.is_inside
    assert splitter.feed(" e <") == [Piece("content", " e <")]


def test_marks_are_found_in_templates_that_name_them() -> None:
    assert detect_reasoning(templates.THINKING) is THINK
    assert detect_reasoning(templates.DEEPSEEK) is THINK
    assert detect_reasoning(templates.MISTRAL_ARGS) is MISTRAL
    for template in (templates.PLAIN, templates.HERMES, templates.LLAMA, templates.MISTRAL, templates.QWEN_XML):
        assert detect_reasoning(template) is None
    assert split(ReasoningSplitter(MISTRAL), ["[THI", "NK]a[/TH", "INK]b"]) == ("a", "b")


def test_the_prompt_tells_whether_the_answer_begins_inside_or_behind_reasoning() -> None:
    messages = [{"role": "user", "content": "x"}]
    inside = chat(templates.DEEPSEEK).render(messages)
    open_to_both = chat(templates.THINKING).render(messages)
    behind = chat(templates.THINKING).render(messages, enable_thinking=False)
    assert [THINK.is_open(prompt) for prompt in (inside, open_to_both, behind)] == [True, False, False]
    assert [THINK.is_over(prompt) for prompt in (inside, open_to_both, behind)] == [False, False, True]
    assert split(THINK.splitter(inside), ["a</think>b"]) == ("a", "b")
    assert split(THINK.splitter(open_to_both), ["a</think>b"]) == ("", "a</think>b")


def test_a_constraint_begins_behind_the_reasoning() -> None:
    ids = {"<think>": 5, "</think>": 6, "<end>": 0}
    assert THINK.before_constraint("x <think>\n", ids).opens == ""
    reasoned = THINK.before_constraint("x", ids)
    assert (reasoned.opens, reasoned.closes, reasoned.special) == ("<think>", "</think>", {"<think>": 5, "</think>": 6})
    assert THINK.before_constraint("x <think>\n\n</think>\n\n", ids) is None
