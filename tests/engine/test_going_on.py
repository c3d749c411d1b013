"""A request that is cut at any token and goes on in another engine says what it would have said, to the last bit."""

from __future__ import annotations

import pytest

from brigade import LLM
from brigade.engine.sampling import SamplingParams
from brigade.engine.submission import Delivered
from brigade.errors import RequestError
from tests.api.small_model import write_model
from tests.engine.going_on import Asked, Heard, check, requests, run

SETTINGS = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_model(tmp_path_factory.mktemp("going") / "model"), **SETTINGS)


@pytest.fixture(scope="module")
def asked(llm: LLM) -> list[Asked]:
    """A hundred, half of them with something that stops them out of what they say without it."""
    plain = run(llm.make_engine("dynamic", **SETTINGS), requests(100, seed=2))
    return requests(100, seed=2, known=[samples[0] for samples in plain])


@pytest.fixture(scope="module")
def whole(llm: LLM, asked: list[Asked]) -> list[list[Heard]]:
    return run(llm.make_engine("dynamic", **SETTINGS), asked)


def test_the_hundred_are_of_every_kind(asked: list[Asked], whole: list[list[Heard]]) -> None:
    samples = [heard.sample for each in whole for heard in each]
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for kind in (str, int):
        assert sum(isinstance(sample.stop_reason, kind) for sample in samples) > 5
    held_back = [delta for each in whole for heard in each for delta in heard.deltas if delta.token_ids and not delta.text]
    assert len(held_back) > 10  # of a stop string, or of a character
    for field in ("logprobs", "prompt_logprobs"):
        assert sum(getattr(one.params, field) is not None for one in asked) > 10
    assert sum(one.params.n > 1 for one in asked) > 10 and sum(one.params.echo for one in asked) > 5


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("tokens", range(15))
def test_cut_at_every_position(llm: LLM, asked, whole, tokens: int, kind: str) -> None:
    """All hundred at once; in the dynamic engine with so few blocks that some are pushed out as well. A sample that was shorter has
    said all of its tokens, and only its end is told again."""
    cuts = [[min(tokens, len(heard.sample.token_ids)) for heard in each] for each in whole]
    said = [[heard.delivered(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    found = run(llm.make_engine(kind, **SETTINGS | {"kv_blocks": 6}), asked, said)
    for before, after, cut in zip(whole, found, cuts, strict=True):
        check(before, after, cut)
    if kind == "dynamic" and tokens < 5:  # later most are at their end, which with some bits makes room for all
        assert sum(heard.sample.metrics.preemptions for each in found for heard in each) > 0


def test_samples_of_one_prompt_are_cut_at_places_of_their_own(llm: LLM, asked, whole) -> None:
    cuts = [[(3 * i + j) % (len(heard.sample.token_ids) + 1) for j, heard in enumerate(each)] for i, each in enumerate(whole)]
    said = [[heard.delivered(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    for before, after, cut in zip(whole, run(llm.make_engine("dynamic", **SETTINGS), asked, said), cuts, strict=True):
        check(before, after, cut)


def test_an_echo_that_was_heard_is_not_said_again(llm: LLM) -> None:
    asked = [Asked("def f(x):", SamplingParams(max_tokens=4, temperature=0.0, echo=True))]
    (whole,) = run(llm.make_engine("dynamic", **SETTINGS), asked)[0]
    echo = whole.deltas[0]
    assert echo.text == "def f(x):" and not echo.token_ids
    (rest,) = run(llm.make_engine("dynamic", **SETTINGS), asked, [[Delivered((), len(echo.text))]])[0]
    assert [delta.text for delta in rest.deltas] == [delta.text for delta in whole.deltas[1:]]


def test_a_request_goes_on_more_than_once(llm: LLM) -> None:
    """After every single token on another engine."""
    asked = [Asked("import ", SamplingParams(max_tokens=10, temperature=1.0, seed=4, n=2, frequency_penalty=1.0, logprobs=2))]
    whole = run(llm.make_engine("dynamic", **SETTINGS), asked)[0]
    said = [Delivered()] * 2
    for tokens in range(10):
        engine = llm.make_engine("dynamic", **SETTINGS)
        engine.submit(asked[0].prompt, asked[0].params, "it", delivered=said)
        heard: dict[int, list] = {0: [], 1: []}
        while any(not found for found in heard.values()):
            for delta in engine.step():
                heard[delta.index].append(delta)
        said = [
            Delivered((*one.token_ids, heard[i][0].token_ids[0]), one.characters + len(heard[i][0].text))
            for i, one in enumerate(said)
        ]
        for i in range(2):
            assert heard[i][0].logprobs == [whole[i].sample.logprobs[tokens]]
    assert [list(one.token_ids) for one in said] == [heard.sample.token_ids for heard in whole]


BAD = {
    "too few samples": ({"n": 2, "seed": 1}, [Delivered((1,))], "delivered has 1 entries, but n is 2"),
    "no seed": ({"temperature": 1.0}, [Delivered((1,))], "needs the seed"),
    "too many tokens": ({"max_tokens": 2, "seed": 1}, [Delivered((1, 2, 3))], "3 tokens delivered, but max_tokens is 2"),
    "no such token": ({"seed": 1}, [Delivered((4096,))], "token 4096 delivered, which is outside the vocabulary of 4096"),
    "no integer": ({"seed": 1}, [Delivered((5.0,))], "token id 0 of a prompt is 5.0"),
    "characters below 0": ({"seed": 1}, [Delivered((1,), -1)], "-1 characters"),
    "no count": ({"seed": 1}, [Delivered((1,), 1.5)], "1.5 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_have_been_said_is_refused(llm: LLM, case: str) -> None:
    given, said, words = BAD[case]
    with pytest.raises(RequestError, match=words):
        llm.engine.prepare("a", SamplingParams(**{"max_tokens": 8} | given), delivered=said)


def test_what_was_checked_is_kept_whatever_the_caller_does_with_its_list(llm: LLM) -> None:
    mine = [1, 2]
    prepared = llm.engine.prepare("a", SamplingParams(max_tokens=8, temperature=0.0), delivered=[Delivered(mine)])
    mine.append(10**9)
    assert prepared.delivered == (Delivered([1, 2]),)


def test_a_request_at_its_end_that_is_aborted_ended_as_it_did(llm: LLM) -> None:
    """Its prompt's log-probabilities are still to be computed then."""
    params = SamplingParams(max_tokens=2, temperature=0.0, prompt_logprobs=0, ignore_eos=True)
    (whole,) = run(llm.make_engine("dynamic", **SETTINGS), [Asked([5] * 200, params)])[0]
    engine = llm.make_engine("dynamic", **SETTINGS)
    engine.submit([5] * 200, params, "it", delivered=[whole.delivered(2)])
    assert engine.step() == []
    engine.abort("it")
    engine.check()
    sample = engine.take_output("it").samples[0]
    assert (sample.finish_reason, sample.token_ids, sample.text) == ("length", whole.sample.token_ids, whole.sample.text)


def test_a_request_that_goes_on_and_is_aborted_keeps_what_it_said(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    (whole,) = run(llm.make_engine("dynamic", **SETTINGS), [Asked("import ", params)])[0]
    engine = llm.make_engine("dynamic", **SETTINGS)
    engine.submit("import ", params, "it", delivered=[whole.delivered(4)])
    while len(engine.step()) == 0:
        pass
    engine.abort("it")
    sample = engine.take_output("it").samples[0]
    assert sample.finish_reason == "abort" and sample.token_ids == whole.sample.token_ids[:5]
    assert engine.pool.num_free == engine.pool.num_blocks


def test_what_another_request_said_ends_this_one_alone(llm: LLM) -> None:
    """More text than its tokens have; or tokens behind its own end."""
    params = SamplingParams(max_tokens=4, temperature=0.0, stop_token_ids=(7,), echo=True)
    asked = [Asked("x", params)] * 3
    said = [[Delivered((9,), 1000)], [Delivered((7, 9), 0)], [Delivered()]]
    first, second, third = (heard for (heard,) in run(llm.make_engine("dynamic", **SETTINGS), asked, said))
    assert first.sample.finish_reason == "error" and "1000 characters cannot have come with 1 tokens" in first.sample.error
    assert second.sample.finish_reason == "error" and "this request ends after 1" in second.sample.error
    assert second.deltas[-1].text == second.sample.text == "x"  # the echo, which its reader did not have
    assert third.sample.finish_reason == "length"
