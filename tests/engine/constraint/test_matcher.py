"""Which tokens may come next: those with which the text can still become one that is allowed, by their bytes alone."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from brigade.checkpoint.load import EMBEDDED
from brigade.engine.constraint.grammars import LIMITS, Grammars
from brigade.errors import RequestError
from brigade.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_folder(EMBEDDED)
TEXTS = [TOKENIZER.token_bytes(token) for token in range(TOKENIZER.vocab_size)]
END = TOKENIZER.eos_ids[0]
PADDED = TOKENIZER.vocab_size + 40  # of a model whose vocabulary was made larger than its tokenizer's


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TOKENIZER, PADDED)


def allowed(matcher, ending=(END,)) -> set[int]:
    logits = np.zeros(PADDED + 7, np.float32)
    matcher.hold(logits, ending)
    return set(np.flatnonzero(logits == 0).tolist())


WORDS = [
    "yes", "no", "not at all", "größe", "日本語", "a\nb", 'say "so"', "\\d", "def f(x):", "def g(x):", "importlib", "import", "😀!",
]  # fmt: skip
DIGITS = ["".join(word) for count in range(1, 4) for word in itertools.product("01 ", repeat=count)]
LANGUAGES = {"words": ({"choice": WORDS}, WORDS), "digits": ({"regex": "[01 ]{1,3}"}, DIGITS)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_token_is_allowed_exactly_where_the_text_with_it_begins_one_that_is_allowed(grammars: Grammars, language: str) -> None:
    """Compared with the definition, for every token of the vocabulary at every step of many answers."""
    constraint, words = LANGUAGES[language]
    whole = [word.encode() for word in words]
    starts = {word[:length] for word in whole for length in range(len(word) + 1)}
    for seed in range(60):
        dice, matcher, said, text = random.Random(seed), grammars.matcher(constraint), [], b""
        while True:
            expected = {i for i, more in enumerate(TEXTS) if more and i != END and text + more in starts}
            assert matcher.may_end == (text in whole)
            assert (matcher.ended_at == len(said)) == (not expected)
            assert allowed(matcher) == expected | ({END} if text in whole else set())
            if not expected or (text in whole and dice.random() < 0.3):
                break
            said.append(dice.choice(sorted(expected)))
            text += TEXTS[said[-1]]
            matcher.follow(said)
        assert text in whole


def test_ids_that_are_no_text_are_never_allowed(grammars: Grammars) -> None:
    """Special tokens, and those that a padded model has beyond its tokenizer's."""
    found = allowed(grammars.matcher({"regex": "(?s:.)*"}))
    assert END in found and max(found) < TOKENIZER.vocab_size and len(found) > 3900
    assert allowed(grammars.matcher({"regex": "(?s:.)+"})) == found - {END}


def test_every_id_that_ends_a_text_is_allowed_where_it_may_end_whatever_else_it_says(grammars: Grammars) -> None:
    (a,) = TOKENIZER.encode("a")
    matcher = grammars.matcher({"regex": "ba+"})
    assert not allowed(matcher, (END, a)) & {END, a}
    matcher.follow(TOKENIZER.encode("b"))
    assert a not in allowed(matcher, (END, a)) and a in allowed(matcher)
    matcher.follow([*TOKENIZER.encode("b"), a])
    assert {END, a} <= allowed(matcher, (END, a))


def test_copies_go_their_own_ways(grammars: Grammars) -> None:
    first = grammars.matcher({"choice": ["ab", "cd"]})
    second, before = first.copy(), allowed(first)
    first.follow(TOKENIZER.encode("a"))
    assert allowed(second) == before != allowed(first)
    second.follow(TOKENIZER.encode("c"))
    assert allowed(second) != allowed(first)


def test_a_matcher_behind_tokens_is_where_one_is_that_took_them_one_by_one(grammars: Grammars) -> None:
    constraint = {"json_schema": '{"type":"object","properties":{"a":{"type":"string","maxLength":9}},"required":["a"]}'}
    for seed in range(20):
        dice, matcher, said = random.Random(seed), grammars.matcher(constraint), []
        for _ in range(12):
            if matcher.ended_at is not None:
                break
            said.append(dice.choice(sorted(allowed(matcher) - {END})))
            matcher.follow(said)
            again = grammars.matcher(constraint).behind(said, {END})
            assert allowed(again) == allowed(matcher)
            assert (again.may_end, again.ended_at) == (matcher.may_end, matcher.ended_at)


def test_tokens_that_a_constrained_answer_cannot_have_said_are_refused(grammars: Grammars) -> None:
    matcher = grammars.matcher({"choice": ["ab", "abc"]})
    ab, c = TOKENIZER.encode("ab"), TOKENIZER.encode("c")
    assert len(ab) == 1
    assert matcher.behind([*ab, END], {END}).may_end and matcher.behind([*ab, *c], {END}).ended_at == 2
    for said, words in (
        ([*c], f"token {c[0]} at place 0 of the answer is not allowed"),
        ([*ab, *c, *c], f"token {c[0]} at place 2 of the answer is not allowed"),
        ([END], f"token {END} at place 0 of the answer ends it"),
        ([END, *ab], f"token {END} at place 0 of the answer is not allowed"),
        ([10**6], "token 1000000 at place 0"),
    ):
        with pytest.raises(RequestError, match=words):
            matcher.behind(said, {END})
    assert allowed(matcher) == allowed(grammars.matcher({"choice": ["ab", "abc"]}))  # it stands where it stood


def test_no_clock_ends_an_answer(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where each token takes a minute it goes on as on any other."""
    expected, matcher, said = grammars.matcher({"regex": "a+"}), grammars.matcher({"regex": "a+"}), TOKENIZER.encode("a")
    expected.follow(said)
    for clock in ("thread_time", "process_time", "monotonic", "perf_counter", "time"):
        monkeypatch.setattr(time, clock, itertools.count(0.0, 60.0).__next__)
    matcher.follow(said)
    monkeypatch.undo()
    assert matcher.failure is None and allowed(matcher) == allowed(expected)


def test_a_grammar_of_many_meanings_comes_to_the_end_of_its_counts_at_the_same_token_everywhere(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token of it takes longer than the one before; what ends it is a number of items, behind equal numbers of tokens."""
    monkeypatch.setitem(LIMITS, "step_max_items", 1_000)
    (a,), ends = TOKENIZER.encode("a"), set()
    for _ in range(2):
        matcher, said = grammars.matcher({"grammar": "start: start start start start | start start | /[a-z]/"}), list[int]()
        while matcher.failure is None:
            said.append(a)
            matcher.follow(said)
        ends.add((len(said), matcher.failure))
    ((tokens, failure),) = ends
    assert 5 < tokens < 100 and f"is too much work behind {tokens} tokens" in failure and "Too many items" in failure
