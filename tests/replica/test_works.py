"""Placements become requests of the engine, and what it says becomes pieces: from the start, or from where a client stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from brigade import LLM, SamplingParams
from brigade.client.asked import logprobs_of
from brigade.coordinator.messages import Ask, Heard, Piece, Place, Rejected, Rest, decode_rest
from brigade.engine.constraint import grammars
from brigade.replica.works import Works
from tests.api.small_model import ROOM, write_model


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM(write_model(tmp_path_factory.mktemp("works") / "small"), **ROOM) as made:
        yield made


def ask(prompt="import ", n: int = 1, seed: int = 7, **params) -> Ask:
    return Ask("small", prompt, n=n, seed=seed, params={"max_tokens": 8, "temperature": 1.0, "ignore_eos": True} | params)


def run(works: Works, placement: int, asked: Ask, heard: list[Heard] | None = None) -> list[Piece]:
    """Everything that is said of it."""
    works.place(Place(placement, asked, heard or [Heard()] * asked.n))
    pieces: list[Piece] = []
    end = time.monotonic() + 30
    while len(works) and time.monotonic() < end:
        pieces += works.take()
        time.sleep(0.001)
    assert len(works) == 0 and works.rejected == []
    return pieces


def rest_of(piece: Piece) -> Rest:
    return decode_rest(piece.rest) or Rest()


def said(pieces: list[Piece], index: int = 0) -> tuple[list[int], str]:
    own = [piece for piece in pieces if piece.index == index]
    for piece, before in zip(own[1:], own, strict=False):
        assert piece.start == before.start + len(before.token_ids)
    return [i for piece in own for i in piece.token_ids], "".join(piece.text for piece in own)


def test_its_identity_is_what_must_be_equal(llm: LLM) -> None:
    identity = Works(llm).identity()
    assert identity.numerics_id == llm.numerics_id and identity.fingerprint == llm.fingerprint
    assert identity.positions == llm.engine.limit == 512
    assert identity.has_tokenizer and identity.vocab_size == 4096
    assert identity.defaults == llm.sampling_defaults and list(identity.defaults) == sorted(identity.defaults)


def test_it_says_what_the_model_says_with_all_that_belongs_to_it(llm: LLM) -> None:
    asked = ask(n=2, logprobs=2, prompt_logprobs=1)
    pieces = run(Works(llm), 5, asked)
    params = SamplingParams(n=2, seed=7, **asked.params)
    (whole,) = llm.generate([asked.prompt], params)
    assert {piece.number for piece in pieces} == {5}
    for index, sample in enumerate(whole.samples):
        assert said(pieces, index) == (sample.token_ids, sample.text)
        rests = [rest_of(piece) for piece in pieces if piece.index == index]
        assert [one for rest in rests for one in map(logprobs_of, rest.logprobs or [])] == sample.logprobs
    assert rest_of(pieces[0]).prompt_token_ids == whole.prompt_token_ids
    of_prompt = [rest_of(piece).prompt_logprobs for piece in pieces]
    assert sum(one is not None for one in of_prompt) == 1
    last = [piece for piece in pieces if piece.finish is not None]
    assert len(last) == 2 and all(rest_of(piece).steps > 0 for piece in last)


@pytest.mark.parametrize("cut", range(9))
def test_it_goes_on_from_where_the_client_stands(llm: LLM, cut: int) -> None:
    asked = ask(n=2, max_tokens=8)
    works = Works(llm)
    whole = run(works, 1, asked)
    heard, known = [], []
    for index in range(2):
        before = [piece for piece in whole if piece.index == index][: max(cut - index, 0)]
        heard.append(
            Heard(
                [i for piece in before for i in piece.token_ids],
                sum(len(piece.text) for piece in before),
                any(piece.finish is not None for piece in before),
            )  # fmt: skip
        )
        known.append(before)
    rest = run(works, 2, asked, heard)
    for index in range(2):
        assert said([*known[index], *rest], index) == said(whole, index)
    ended = [index for index, one in enumerate(heard) if one.is_ended]
    assert not [piece for piece in rest if piece.index in ended], "what has ended says nothing more"


@pytest.mark.parametrize("least", [0, 50])
def test_max_tokens_that_nobody_named_are_those_of_the_start(llm: LLM, least: int) -> None:
    """Also where more is the least than there is room for."""
    works, asked = Works(llm), ask([5] * 500, max_tokens=None, min_tokens=least)
    whole = run(works, 1, asked)
    ids, _ = said(whole)
    assert len(ids) == 12
    rest = run(works, 2, asked, [Heard(ids[:5], sum(len(piece.text) for piece in whole[:5]))])
    assert said(rest)[0] == ids[5:] and rest[0].start == 5 and rest[-1].finish == "length"


def test_the_models_own_defaults_stand_under_what_is_said(llm: LLM, monkeypatch) -> None:
    works = Works(llm)
    monkeypatch.setattr(llm, "params", lambda **given: SamplingParams(**({"temperature": 0.0, "max_tokens": 3} | given)))
    pieces = run(works, 1, Ask("small", "import ", seed=1))
    assert said(pieces)[0] == llm.generate("import ", SamplingParams(temperature=0.0, max_tokens=3))[0].token_ids


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ask([]), "the prompt has 0 tokens"),
        (ask([9999]), "outside the vocabulary"),
        (ask([5] * 600), "exceed the limit of 512 positions"),
        (ask(top_p=2.0), "top_p is 2.0"),
        (ask(what=1), "its parameters cannot be read"),
    ],
)
def test_what_can_never_be_served_is_rejected_in_words(llm: LLM, asked: Ask, words: str) -> None:
    works = Works(llm)
    works.place(Place(3, asked, [Heard()]))
    (answer,) = works.rejected
    assert isinstance(answer, Rejected) and answer.placement == 3 and words in answer.error and len(works) == 0


@pytest.mark.parametrize("samples", [1, 2])
def test_what_no_connection_takes_ends_its_sample_and_no_more_is_said_of_it(llm: LLM, monkeypatch, samples: int) -> None:
    """Else the next piece would stand behind tokens that nobody has, and the whole replica would be given up."""
    monkeypatch.setattr("brigade.replica.works.MAX_MESSAGE", 20_000)
    works = Works(llm)
    pieces = run(works, 1, ask([5] * 300, n=samples, prompt_logprobs=20))
    (first,) = [piece for piece in pieces if piece.index == 0]
    assert first.finish == "error" and "ask for fewer log-probabilities" in first.error and not first.token_ids
    assert [rest_of(piece).prompt_token_ids for piece in pieces if rest_of(piece).prompt_token_ids] == [[5] * 300], "told once"
    if samples == 2:
        other = [piece for piece in pieces if piece.index == 1]
        assert len(said(pieces, 1)[0]) == 8 and other[-1].finish == "length"
    assert llm.thread.wait_idle(10)


def test_what_is_withdrawn_or_cleared_is_not_said_and_leaves_nothing(llm: LLM) -> None:
    works = Works(llm)
    for placement in (1, 2, 3):
        works.place(Place(placement, ask(max_tokens=300), [Heard()]))
    assert works.rejected == []
    works.withdraw(1)
    works.withdraw(1)
    works.withdraw(99)
    end = time.monotonic() + 20
    heard: set[int] = set()
    while not heard and time.monotonic() < end:
        heard |= {piece.number for piece in works.take()}
        time.sleep(0.001)
    assert heard and 1 not in heard
    works.clear()
    assert llm.thread.wait_idle(10) and works.take() == [] and len(works) == 0
    assert llm.engine.pool.num_free == llm.engine.pool.num_blocks


class SlowCompiler:
    """Compiles nothing until it is told to, but for at least half a second. Other threads run meanwhile, as beside the real one."""

    grammar_from_lark = staticmethod(grammars.LLMatcher.grammar_from_lark)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compile, self.go_on, self.began = grammars.LLMatcher, threading.Event(), threading.Event()
        monkeypatch.setattr(grammars, "LLMatcher", self)

    def __call__(self, *given, **named):
        self.began.set()
        time.sleep(0.5)
        assert self.go_on.wait(30)
        return self.compile(*given, **named)


def until(works: Works, is_so: Callable[[], bool]) -> list[Piece]:
    pieces, end = list[Piece](), time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        pieces += works.take()
        time.sleep(0.001)
    return pieces


CONSTRAINED = {"ignore_eos": False, "constraint": {"regex": "[0-9]{8}"}, "max_tokens": 12}


def test_other_streams_go_on_while_a_constraint_is_compiled(llm: LLM, monkeypatch) -> None:
    """And it says then what it says alone."""
    works, slow = Works(llm), SlowCompiler(monkeypatch)
    began = time.monotonic()
    works.place(Place(1, ask(**CONSTRAINED), [Heard()]))
    assert time.monotonic() - began < 0.4, "the loop waits for the compiler"
    assert works.is_reading
    works.place(Place(2, ask(max_tokens=8), [Heard()]))
    assert not works.is_reading, "the engine has the second one"
    pieces = until(works, lambda: len(works) == 1)
    assert slow.began.wait(10) and {piece.number for piece in pieces} == {2} and len(said(pieces)[0]) == 8
    assert works.is_reading
    slow.go_on.set()
    late = until(works, lambda: len(works) == 0)
    assert not works.is_reading
    monkeypatch.undo()
    (whole,) = llm.generate(["import "], SamplingParams(**{"seed": 7, "temperature": 1.0} | CONSTRAINED))
    assert said(late) == (whole.token_ids, whole.text) and late[-1].finish == "stop"
    works.close()


@pytest.mark.parametrize("way", ["withdraw", "clear"])
def test_what_nobody_wants_any_more_when_its_constraint_is_compiled_never_begins(llm: LLM, monkeypatch, way: str) -> None:
    works, slow = Works(llm), SlowCompiler(monkeypatch)
    works.place(Place(1, ask(**CONSTRAINED), [Heard()]))
    assert slow.began.wait(10)
    works.withdraw(1) if way == "withdraw" else works.clear()
    slow.go_on.set()
    until(works, lambda: len(works._ready) == 1)
    assert works.take() == [] and works.rejected == [] and len(works) == 0 and llm.thread.wait_idle(10)
    works.close()


def test_a_constraint_that_cannot_be_compiled_is_rejected(llm: LLM) -> None:
    woken = threading.Event()
    works = Works(llm, woken.set)
    works.place(Place(3, ask(ignore_eos=False, constraint={"regex": "["}), [Heard()]))
    assert woken.wait(10) and works.take() == [] and len(works) == 0
    (answer,) = works.rejected
    assert answer.placement == 3 and "constraint regex cannot be compiled" in answer.error
    works.close()


@pytest.mark.parametrize("cut", range(8))
def test_a_constrained_one_goes_on_from_where_the_client_stands_however_slow_the_compiler(llm: LLM, monkeypatch, cut: int) -> None:
    works = Works(llm)
    whole = run(works, 1, ask(**CONSTRAINED))
    before = whole[:cut]
    if cut:  # it has begun, so no time ends it
        monkeypatch.setattr(grammars, "MOST_SECONDS", 0.0)
    tokens = [i for piece in before for i in piece.token_ids]
    ended = any(piece.finish is not None for piece in before)
    rest = run(works, 2, ask(**CONSTRAINED), [Heard(tokens, sum(len(piece.text) for piece in before), ended)])
    assert said([*before, *rest]) == said(whole) and (rest or before)[-1].finish == "stop"
    works.close()
