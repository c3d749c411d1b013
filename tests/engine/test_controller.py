"""What a request says: stops, finish reasons, samples, logprobs, echo, and text that never splits a character."""

from __future__ import annotations

import pytest

from brigade.engine.engine import DynamicEngine, StaticEngine
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import Letters, counting_engine, make_engine, run_to_end


def ask(prompt="A", kind=DynamicEngine, eos_ids=(), **params):
    engine = counting_engine(kind, tokenizer=Letters(), eos_ids=eos_ids)
    name = engine.submit(prompt, SamplingParams(**{"temperature": 0.0, "max_tokens": 10} | params))
    deltas = run_to_end(engine)
    output = engine.take_output(name)
    assert "".join(delta.text for delta in deltas) == "".join(sample.text for sample in output.samples)
    return output


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_length_is_a_true_reason(kind) -> None:
    output = ask(kind=kind)
    assert (output.text, output.finish_reason) == ("BCDEFGHIJK", "length")


def test_a_stop_string_across_tokens_is_cut_from_the_text() -> None:
    output = ask(stop="EFG")
    assert (output.text, output.finish_reason, output.samples[0].stop_reason) == ("BCD", "stop", "EFG")
    assert ask(stop="EFG", include_stop=True).text == "BCDEFG"


def test_a_stop_string_that_never_completes_is_given_back() -> None:
    assert ask(stop="JKX").text == "BCDEFGHIJK"


def test_stop_ids_and_the_end_of_text() -> None:
    d = ord("D") - 32
    stopped = ask(stop_token_ids=[d])
    assert (stopped.text, stopped.token_ids[-1], stopped.finish_reason) == ("BC", d, "stop")
    assert ask(eos_ids=(d,)).text == "BC"
    assert ask(eos_ids=(d,), ignore_eos=True).finish_reason == "length"


def test_min_tokens_forbids_an_early_end() -> None:
    d = ord("D") - 32
    output = ask(eos_ids=(d,), min_tokens=5)
    assert len(output.token_ids) >= 5


def test_echo_gives_the_prompt_back() -> None:
    assert ask("XYZ"[:2], echo=True, max_tokens=1).text == "XYZ"
    nothing = ask("AB", echo=True, max_tokens=0)
    assert (nothing.text, nothing.token_ids, nothing.finish_reason) == ("AB", [], "length")


def test_n_samples_differ_and_each_can_be_had_again() -> None:
    engine = make_engine()
    name = engine.submit([1, 2, 3], SamplingParams(max_tokens=12, n=4, seed=5, temperature=1.5))
    run_to_end(engine)
    output = engine.take_output(name)
    assert len({tuple(sample.token_ids) for sample in output.samples}) == 4
    for sample in output.samples:
        name = engine.submit([1, 2, 3], SamplingParams(max_tokens=12, seed=sample.seed, temperature=1.5))
        run_to_end(engine)
        assert engine.take_output(name).token_ids == sample.token_ids


def test_a_seed_that_was_not_given_is_reported() -> None:
    engine = make_engine()
    name = engine.submit([1], SamplingParams(max_tokens=8, temperature=1.2))
    run_to_end(engine)
    output = engine.take_output(name)
    again = engine.submit([1], SamplingParams(max_tokens=8, temperature=1.2, seed=output.samples[0].seed))
    run_to_end(engine)
    assert engine.take_output(again).token_ids == output.token_ids


def test_logprobs_come_with_every_token() -> None:
    output = ask(logprobs=3)
    assert [entry.token_id for entry in output.logprobs] == output.token_ids
    assert all(entry.rank == 1 and len(entry.top) == 3 and entry.logprob <= 0 for entry in output.logprobs)


def test_an_output_is_taken_once() -> None:
    engine = counting_engine()
    name = engine.submit([1], SamplingParams(max_tokens=1))
    with pytest.raises(ValueError, match="still running"):
        engine.take_output(name)
    run_to_end(engine)
    engine.take_output(name)
    with pytest.raises(ValueError, match="no request"):
        engine.take_output(name)
