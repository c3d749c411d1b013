"""A constrained request says the same alone and in company, in chunks, pushed out and taken in again, and on another engine from
any token on."""

from __future__ import annotations

import pytest

from brigade import LLM, SamplingParams
from brigade.engine.constraint import grammars
from brigade.engine.sampling import Sampler, register_parameter
from brigade.engine.submission import Delivered
from brigade.errors import RequestError
from tests.api.small_model import write_model
from tests.engine.going_on import Asked, Heard, check, requests, run

SETTINGS = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}
SCHEMA = '{"type":"object","properties":{"a":{"type":"string","maxLength":6},"b":{"type":"integer"}},"required":["a","b"]}'
CONSTRAINTS = (
    {"json_schema": SCHEMA}, {"regex": "[a-z]{2,6}(-[0-9]{2}){1,3}"}, {"choice": ["yes", "no, not at all", "größer", "日本語です"]},
    {"json_object": True}, {"grammar": 'start: "(" (start | /[0-9]/)* ")"'}, {"regex": "a+"},
)  # fmt: skip
BESIDE = (
    {}, {"logprobs": 2}, {"repetition_penalty": 1.3}, {"top_k": 3}, {"logit_bias": {17: 5.0}}, {"stop": ["a", "é"]},
)  # fmt: skip


def constrained(count: int) -> list[Asked]:
    """Of every kind, and with every other parameter that goes with a constraint."""
    found = []
    for number in range(count):
        given = {"max_tokens": 4 + 5 * (number % 4), "temperature": (0.0, 0.8, 1.3)[number % 3], "seed": number}
        given |= {"n": 1 + (number % 7 == 3)} | BESIDE[number % len(BESIDE)]
        prompt = "def f(x):" * (1 + number % 9) if number % 2 else [5 + number] * (1 + 3 * number)
        found.append(Asked(prompt, SamplingParams(constraint=CONSTRAINTS[number % len(CONSTRAINTS)], **given)))
    return found


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM(write_model(tmp_path_factory.mktemp("same") / "model"), **SETTINGS)


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    """Between as many that are free."""
    return [one for pair in zip(constrained(30), requests(30, seed=7), strict=True) for one in pair]


@pytest.fixture(scope="module")
def whole(llm: LLM, asked: list[Asked]) -> list[list[Heard]]:
    return run(llm.make_engine("dynamic", **SETTINGS), asked)


def said(each: list[list[Heard]]) -> list:
    samples = [one.sample for heard in each for one in heard]
    return [(one.token_ids, one.text, one.finish_reason, one.stop_reason, one.logprobs, one.error) for one in samples]


def test_the_requests_end_in_every_way(whole: list[list[Heard]]) -> None:
    ends = {(one.sample.finish_reason, type(one.sample.stop_reason)) for heard in whole[::2] for one in heard}
    assert ends >= {("stop", type(None)), ("stop", str), ("length", type(None))} and not any(
        reason == "error" for reason, _ in ends
    )


def test_alone(llm: LLM, asked: list[Asked], whole: list[list[Heard]]) -> None:
    alone = [run(llm.make_engine("dynamic", **SETTINGS), [one])[0] for one in asked]
    assert said(alone) == said(whole)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("static", {}),
        ("dynamic", {"prefill_chunk": 5, "max_step_tokens": 20}),
        ("dynamic", {"kv_blocks": 13}),
        ("static", {"max_batch_size": 3}),
    ],
)
def test_in_other_batches(llm: LLM, asked: list[Asked], whole: list[list[Heard]], kind: str, settings: dict) -> None:
    found = run(llm.make_engine(kind, **SETTINGS | settings), asked)
    assert said(found) == said(whole)
    if "kv_blocks" in settings:
        assert sum(one.sample.metrics.preemptions for heard in found for one in heard) > 0


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 5, 8, 13, 21])
def test_going_on_elsewhere(llm: LLM, asked: list[Asked], whole: list[list[Heard]], tokens: int, kind: str) -> None:
    cuts = [[min(tokens, len(heard.sample.token_ids)) for heard in each] for each in whole]
    known = [[heard.delivered(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
    found = run(llm.make_engine(kind, **SETTINGS | {"kv_blocks": 16}), asked, known)
    for before, after, cut in zip(whole, found, cuts, strict=True):
        check(before, after, cut)


def test_what_a_constrained_request_cannot_have_said_is_refused(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=0.0, constraint={"choice": ["yes", "no"]})
    with pytest.raises(RequestError, match="at place 0 of the answer is not allowed there by its constraint"):
        llm.engine.prepare("a", params, delivered=[Delivered((17,), 1)])


def test_a_submission_may_be_added_twice(llm: LLM) -> None:
    engine = llm.make_engine("dynamic", **SETTINGS)
    prepared = engine.prepare("a", SamplingParams(max_tokens=8, temperature=0.0, constraint={"choice": ["yes", "no"]}))
    names = [engine.add(prepared) for _ in range(2)]
    while engine.has_work:
        engine.step()
    assert len({engine.take_output(name).text for name in names} & {"yes", "no"}) == 1


def shut(logits_V, value, row):
    logits_V[:] = float("-inf")
    return logits_V


register_parameter("shuts_in_tests", lambda value: None, shut)


class Deaf(Sampler):
    """One of somebody's own that asks no constraint."""

    def _edit(self, logits, rows):
        return logits


def ends(llm: LLM, params: SamplingParams, **more) -> tuple:
    """How it ends, beside others that must not notice."""
    others = constrained(6)
    expected = said(run(llm.make_engine("dynamic", **SETTINGS), others))
    found = run(llm.make_engine("dynamic", **SETTINGS, **more), [*others, Asked("a", params)])
    if not more:
        assert said(found[:-1]) == expected
    sample = found[-1][0].sample
    return sample.finish_reason, sample.error


def test_where_no_token_is_left_the_request_ends_alone(llm: LLM) -> None:
    params = {"max_tokens": 8, "temperature": 0.0, "constraint": {"choice": ["yes", "no"]}}
    reason, error = ends(llm, SamplingParams(**params, extra={"shuts_in_tests": 1}))
    assert reason == "error" and "not finite" in error


def test_a_grammar_that_is_too_much_work_on_its_way_ends_its_request_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grammars.LIMITS, "step_max_items", 400)
    constraint = {"grammar": 'start: start start | "a" | "a" "a"\n// not kept from before'}
    reason, error = ends(llm, SamplingParams(max_tokens=60, temperature=0.0, constraint=constraint))
    assert reason == "error" and "the constraint is too much work behind" in error and "make it simpler" in error


def test_a_sampler_that_gives_what_the_constraint_forbids_is_told(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=0.0, constraint={"choice": ["yes", "no"]})
    reason, error = ends(llm, params, sampler=Deaf())
    assert reason == "error" and "which the request's constraint does not allow" in error


def test_a_model_without_a_tokenizer_refuses(tmp_path) -> None:
    with (
        LLM(write_model(tmp_path / "model", vocabulary=500), **SETTINGS) as other,
        pytest.raises(RequestError, match="no tokenizer"),
    ):
        other.generate([[1, 2]], SamplingParams(constraint={"regex": "a"}))
