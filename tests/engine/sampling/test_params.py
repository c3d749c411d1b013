"""Every value that makes no sense is refused with its name, itself, and the range."""

from __future__ import annotations

import pytest

from brigade.engine.sampling import SamplingParams
from brigade.errors import RequestError

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", NAN), ("temperature", "hot"), ("temperature", True), ("top_k", -1),
        ("top_k", 1.5), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 2), ("seed", -1), ("seed", 2**64),
        ("repetition_penalty", 0), ("repetition_penalty", 1e-40), ("repetition_penalty", 0.009), ("repetition_penalty", 100.1),
        ("repetition_penalty", NAN),
        ("presence_penalty", 2.1), ("frequency_penalty", -3), ("logit_bias", {-1: 1.0}), ("logit_bias", {1: 101}),
        ("logit_bias", {1: NAN}), ("min_tokens", -1), ("min_tokens", 17), ("max_tokens", -1),
        ("max_tokens", 0), ("max_tokens", 2.0), ("stop", ""), ("stop", ["a", ""]), ("stop", [3]), ("stop_token_ids", [-1]),
        ("stop_token_ids", [1.5]), ("n", 0), ("n", True), ("logprobs", -1), ("logprobs", 101), ("prompt_logprobs", 101),
        ("echo", 1), ("ignore_eos", "yes"), ("priority", 0.5), ("include_stop", True), ("extra", {"nobody": 1}),
    ],
)  # fmt: skip
def test_refused_by_name_and_value(name, value) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{name: value})
    text = str(refused.value)
    assert "\n" not in text
    assert name in text or "nobody" in text


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty", "logit_bias"])
def test_an_integer_beyond_every_float_is_refused(name) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParams(**{name: {1: 10**400} if name == "logit_bias" else 10**400})


def test_an_error_says_the_bounds() -> None:
    with pytest.raises(RequestError, match=r"^repetition_penalty is 1e-40; it must be a number from 0.01 to 100$"):
        SamplingParams(repetition_penalty=1e-40)


def test_defaults_and_normal_forms() -> None:
    params = SamplingParams(stop="x", stop_token_ids=[1, 2])
    assert params.stop == ("x",) and params.stop_token_ids == (1, 2)
    assert not params.edits_logits and not params.is_greedy
    assert SamplingParams(temperature=0).is_greedy
