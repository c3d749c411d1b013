"""A request that is cut at any token and goes on in another engine says what it would have said, to the last bit."""

from __future__ import annotations

import pytest

from brigade import LLM
from brigade.engine.sampling import SamplingParams
from brigade.engine.submission import Said
from brigade.errors import RequestError
from tests.api.small_model import write_model
from tests.engine.going_on import Asked, Heard, check, requests, run

SETTINGS = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_model(tmp_path_factory.mktemp("going") / "model"), **SETTINGS)


@pytest.fixture(scope="module")
def asked(llm: LLM) -> list[Asked]:
    """A hundred, half of them with a stop string out of what they say without it."""
    plain = run(llm.make_engine("dynamic", **SETTINGS), requests(100, seed=2))
    return requests(100, seed=2, known=[samples[0].sample.text for samples in plain])


@pytest.fixture(scope="module")
def whole(llm: LLM, asked: list[Asked]) -> list[list[Heard]]:
    return run(llm.make_engine("dynamic", **SETTINGS), asked)


def test_the_hundred_are_of_every_kind(asked: list[Asked], whole: list[list[Heard]]) -> None:
    samples = [heard.sample for each in whole for heard in each]
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    assert sum(isinstance(sample.stop_reason, str) for sample in samples) > 5
    held_back = [delta for each in whole for heard in each for delta in heard.deltas if delta.token_ids and not delta.text]
    assert len(held_back) > 10  # of a stop string, or of a character
    for field in ("logprobs", "prompt_logprobs"):
        assert sum(getattr(one.params, field) is not None for one in asked) > 10
    assert sum(one.params.n > 1 for one in asked) > 10 and sum(one.params.echo for one in asked) > 5


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("tokens", range(15))
def test_cut_at_every_position(llm: LLM, asked, whole, tokens: int, kind: str) -> None:
    """All hundred at once, with so few blocks that some are pushed out as well. A sample that was shorter has said all of its
    tokens, and only its end is told again."""
    cuts = [[min(tokens, len(heard.sample.token_ids)) for heard in each] for each in whole]
    said = [[heard.said(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    engine = llm.make_engine(kind, **SETTINGS | {"kv_blocks": 12})
    for before, after, cut in zip(whole, run(engine, asked, said), cuts, strict=True):
        check(before, after, cut)


def test_samples_of_one_prompt_are_cut_at_places_of_their_own(llm: LLM, asked, whole) -> None:
    cuts = [[(3 * i + j) % (len(heard.sample.token_ids) + 1) for j, heard in enumerate(each)] for i, each in enumerate(whole)]
    said = [[heard.said(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    for before, after, cut in zip(whole, run(llm.make_engine("dynamic", **SETTINGS), asked, said), cuts, strict=True):
        check(before, after, cut)


def test_an_echo_that_was_heard_is_not_said_again(llm: LLM) -> None:
    asked = [Asked("def f(x):", SamplingParams(max_tokens=4, temperature=0.0, echo=True))]
    (whole,) = run(llm.make_engine("dynamic", **SETTINGS), asked)[0]
    echo = whole.deltas[0]
    assert echo.text == "def f(x):" and not echo.token_ids
    (rest,) = run(llm.make_engine("dynamic", **SETTINGS), asked, [[Said((), len(echo.text))]])[0]
    assert [delta.text for delta in rest.deltas] == [delta.text for delta in whole.deltas[1:]]


def test_a_request_goes_on_more_than_once(llm: LLM) -> None:
    """After every single token on another engine."""
    asked = [Asked("import ", SamplingParams(max_tokens=10, temperature=1.0, seed=4, n=2, frequency_penalty=1.0, logprobs=2))]
    whole = run(llm.make_engine("dynamic", **SETTINGS), asked)[0]
    said = [Said()] * 2
    for tokens in range(10):
        engine = llm.make_engine("dynamic", **SETTINGS)
        engine.submit(asked[0].prompt, asked[0].params, "it", said=said)
        heard: dict[int, list] = {0: [], 1: []}
        while any(not found for found in heard.values()):
            for delta in engine.step():
                heard[delta.index].append(delta)
        said = [
            Said((*one.token_ids, heard[i][0].token_ids[0]), one.characters + len(heard[i][0].text)) for i, one in enumerate(said)
        ]
        for i in range(2):
            assert heard[i][0].logprobs == [whole[i].sample.logprobs[tokens]]
    assert [list(one.token_ids) for one in said] == [heard.sample.token_ids for heard in whole]


BAD = {
    "too few samples": ({"n": 2, "seed": 1}, [Said((1,))], "1 samples have said something, but n is 2"),
    "no seed": ({"temperature": 1.0}, [Said((1,))], "needs the seed"),
    "too many tokens": ({"max_tokens": 2, "seed": 1}, [Said((1, 2, 3))], "has said 3 tokens, but max_tokens is 2"),
    "no such token": ({"seed": 1}, [Said((4096,))], "token 4096, which is outside the vocabulary of 4096"),
    "characters below 0": ({"seed": 1}, [Said((1,), -1)], "-1 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_have_been_said_is_refused(llm: LLM, case: str) -> None:
    given, said, words = BAD[case]
    with pytest.raises(RequestError, match=words):
        llm.engine.prepare("a", SamplingParams(**given), said=said)


def test_what_another_request_said_ends_this_one_alone(llm: LLM) -> None:
    """More text than its tokens have; or tokens behind its own end."""
    params = SamplingParams(max_tokens=4, temperature=0.0, stop_token_ids=(7,))
    asked = [Asked("x", params)] * 3
    said = [[Said((9,), 1000)], [Said((7, 9), 0)], [Said()]]
    first, second, third = (heard.sample for (heard,) in run(llm.make_engine("dynamic", **SETTINGS), asked, said))
    assert first.finish_reason == "error" and "cannot have said 1000 characters" in first.error
    assert second.finish_reason == "error" and "ends by its parameters after 1" in second.error
    assert third.finish_reason == "length"
