"""A failure that belongs to one request ends that request with the reason "error"; the others say what they say alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from brigade.engine.engine import DynamicEngine, StaticEngine
from brigade.engine.sampling import Sampler, SamplingParams, register_parameter
from brigade.engine.sampling.sampler import InverseCDF
from tests.engine.fakes import SETUPS, CountingModel, counting_engine, make_engine, run_to_end, tiny_model

KINDS = [DynamicEngine, StaticEngine]
BAD = 13  # the prompt of whoever fails here begins with it


def breaks(logits_V, value, row):
    if value == "raise":
        raise ZeroDivisionError("a parameter of somebody's own")
    logits_V[3] = {"nan": math.nan, "inf": math.inf}[value]
    return logits_V


register_parameter("breaks_in_tests", lambda value: None if value in ("raise", "nan", "inf") else "unknown", breaks)


class Fragile:
    """A rule that raises, or answers nonsense, for rows of one seed."""

    def __init__(self, kind: str) -> None:
        self.kind, self.sizes = kind, []

    def choose(self, weights_RV, rows):
        self.sizes.append(len(rows))
        chosen = InverseCDF().choose(weights_RV, rows)
        if all(row.prompt_token_ids[0] != BAD for row in rows):
            return chosen
        if self.kind == "raise":
            raise LookupError("no such row")
        return chosen + [0] if self.kind == "too many" else [10**6] * len(rows)


class Poisoned(CountingModel):
    """Says NaN, or infinity, in the rows of ids that are BAD."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def __call__(self, batch, cache):
        logits = super().__call__(batch, cache)
        logits[logits.argmax(1) == BAD + 1, 5] = self.value
        return logits


def params(number: int, **more) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.8, "seed": number, "max_tokens": 6, "logprobs": 2} | more)


def play(engine, spoilt: SamplingParams | None, prompts=((1, 2), (BAD,), (40,), (60, 61, 62))) -> list:
    """Four requests, of which the second is bad; the first two batches of them already see the failure."""
    names = [
        engine.submit(list(prompt), spoilt if spoilt is not None and prompt[0] == BAD else params(number))
        for number, prompt in enumerate(prompts)
    ]
    run_to_end(engine)
    engine.check()
    return [engine.take_output(name) for name in names]


def check(found: list, alone: list, words: str) -> None:
    bad = found[1]
    assert bad.finish_reason == "error" and words in bad.error and "\n" not in bad.error, bad
    for one, expected in zip(found[:1] + found[2:], alone[:1] + alone[2:], strict=True):
        assert one.error is None and one.finish_reason == "length"
        assert one.token_ids == expected.token_ids and one.logprobs == expected.logprobs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(kind, value: float) -> None:
    alone = play(counting_engine(kind), None)
    engine = counting_engine(kind)
    engine.controller.runner.model = Poisoned(value)
    found = play(engine, None)
    check(found, alone, "not finite")
    assert found[1].token_ids == []
    again = engine.submit([70], params(9))  # the engine lives
    run_to_end(engine)
    assert engine.take_output(again).finish_reason == "length"


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_rows_that_are_not_finite(kind) -> None:
    """Only whoever wants the log-probabilities of its prompt reads those rows; in a chunk before the last, too."""
    prompt = [BAD, *range(20, 45)]
    engine = counting_engine(kind)
    engine.controller.runner.model = Poisoned(math.nan)
    wanting = engine.submit(prompt, params(1, prompt_logprobs=1))
    other = engine.submit(prompt, params(1))
    run_to_end(engine)
    engine.check()
    failed, fine = engine.take_output(wanting), engine.take_output(other)
    assert failed.finish_reason == "error" and "the logits for position 1 are not finite" in failed.error and failed.token_ids == []
    assert fine.finish_reason == "length" and fine.token_ids[0] == 45


@pytest.mark.parametrize("value", ["raise", "nan", "inf"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_parameter_that_fails(value: str, temperature: float) -> None:
    spoilt = params(1, temperature=temperature, extra={"breaks_in_tests": value})
    found = play(counting_engine(), spoilt)
    check(found, play(counting_engine(), None), "ZeroDivisionError: a parameter" if value == "raise" else "not finite")


@pytest.mark.parametrize(
    ("kind", "words"), [("raise", "LookupError: no such row"), ("too many", "for 1 rows"), ("alien", "1000000")]
)
def test_a_rule_that_fails_is_asked_again_row_by_row(kind: str, words: str) -> None:
    rule = Fragile(kind)
    engine = counting_engine()
    engine.controller.sampler = Sampler(rule)
    check(play(engine, None), play(counting_engine(), None), words)
    assert rule.sizes[:5] == [4, 1, 1, 1, 1] and rule.sizes[5] == 3  # once row by row, and then without the bad one


@pytest.mark.parametrize(
    ("kind", "words"),
    [("fewer", "gave 0 tokens for 1 rows"), ("alien", "gave token 97; ids go from 0 to 96"), ("silent", "no log-probabilities")],
)
def test_a_sampler_of_ones_own_that_answers_wrongly_fails_alone(kind: str, words: str) -> None:
    class Wrong(Sampler):
        def sample(self, logits_RV, rows):
            found = super().sample(logits_RV, rows)
            bad = next((place for place, row in enumerate(rows) if row.prompt_token_ids[0] == BAD), None)
            if bad is not None:
                wrong = {
                    "fewer": [], "alien": [replace(found[bad], token_id=97)], "silent": [replace(found[bad], logprobs=None)],
                }[kind]  # fmt: skip
                found[bad : bad + 1] = wrong
            return found

    engine, other = counting_engine(), counting_engine()
    engine.controller.sampler = Wrong()
    check(play(engine, None), play(other, None), words)


def test_text_that_cannot_be_made(monkeypatch) -> None:
    class Broken:
        def push(self, token: int) -> str:
            raise UnicodeError("no text")

        def finish(self) -> str:
            return ""

    engine = counting_engine()
    real = engine.scheduler.add

    def add(request) -> None:
        request.detokenizer = Broken() if request.prompt_token_ids[0] == BAD else None
        real(request)

    monkeypatch.setattr(engine.scheduler, "add", add)
    found = play(engine, None)
    check(found, play(counting_engine(), None), "UnicodeError: no text")
    assert len(found[1].token_ids) == 1


def test_one_sample_of_several_ends_alone() -> None:
    engine = counting_engine()
    engine.controller.sampler = Sampler(rule := Fragile("raise"))
    rule.choose = lambda weights_RV, rows: (  # type: ignore[method-assign]
        [1 / 0] if any(row.index == 1 for row in rows) else InverseCDF().choose(weights_RV, rows)
    )
    name = engine.submit([5], params(1, n=3))
    deltas = run_to_end(engine)
    samples = engine.take_output(name).samples
    assert [sample.finish_reason for sample in samples] == ["length", "error", "length"]
    assert [delta.error for delta in deltas if delta.finish_reason == "error"] == [samples[1].error]


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_a_broken_word_reaches_only_those_who_say_it(setup) -> None:
    """On a real network: one row of the word table is NaN. Prompts without it keep their bits, beside it and after it in the
    same cache blocks."""
    alone = play(make_engine(setup=setup, num_blocks=24, prefix_cache=False), None)
    model = tiny_model(setup)
    table = getattr(model.embedding.word, "table_VH", model.embedding.word)
    kept = table[BAD].clone()
    with torch.inference_mode():
        table[BAD] = math.nan
    try:
        engine = make_engine(setup=setup, num_blocks=24, prefix_cache=False)
        check(play(engine, None), alone, "not finite")
        check(play(engine, None), alone, "not finite")  # the blocks that held NaN hold others now
    finally:
        with torch.inference_mode():
            table[BAD] = kept
