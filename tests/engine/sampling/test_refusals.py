"""What is of the wrong kind is refused as clearly as what is out of range, and nothing changes after validation."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from brigade.engine.sampling import Sampler, SamplingParams, register_parameter
from brigade.engine.sampling.sampler import LogitsError
from brigade.errors import ConfigError, RequestError
from tests.engine.sampling.test_sampler import Row


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", 5), ("stop", None), ("stop", {"a": 1}), ("stop", b"x"), ("stop_token_ids", 5), ("stop_token_ids", None),
        ("stop_token_ids", "12"), ("stop_token_ids", [True]), ("logit_bias", [1]), ("logit_bias", None), ("extra", 3),
        ("extra", None), ("temperature", 1e-40), ("temperature", 9e-5), ("temperature", float("inf")), ("temperature", None),
        ("top_p", float("nan")), ("logit_bias", {True: 1.0}), ("logit_bias", {1: "x"}), ("seed", True),
    ],
)  # fmt: skip
def test_a_wrong_kind_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{name: value})
    text = str(refused.value)
    assert name in text and "must be" in text and "\n" not in text


def test_the_callers_mapping_may_change_later() -> None:
    bias = {1: 1.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = float("nan")
    assert params.logit_bias == {1: 1.0}


def test_params_hash_compare_and_travel() -> None:
    params = SamplingParams(logit_bias={1: 2.0}, stop=["x"])
    assert hash(params) == hash(SamplingParams(logit_bias={1: 2.0}, stop="x"))
    assert pickle.loads(pickle.dumps(params)) == params
    assert dataclasses.replace(params, logit_bias={}).edits_logits is False


def test_ids_outside_the_vocabulary_are_refused_by_name() -> None:
    SamplingParams(logit_bias={9: 1.0}, stop_token_ids=[9]).check_vocabulary(10)
    for params in (SamplingParams(logit_bias={10: 1.0}), SamplingParams(stop_token_ids=[10])):
        with pytest.raises(RequestError, match="names token 10; this model's ids go from 0 to 9"):
            params.check_vocabulary(10)


@pytest.mark.parametrize("name", ["top_k", "two words", "", 3])
def test_a_parameter_cannot_take_a_built_in_or_unusable_name(name: object) -> None:
    with pytest.raises(ConfigError, match="choose another name|use letters"):
        register_parameter(name, lambda value: None, lambda logits, value, row: logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"top_k": 2}, {"repetition_penalty": 1.1}])
def test_only_the_broken_rows_are_named(value: float, params: dict) -> None:
    matrix = torch.zeros(3, 8)
    matrix[1, 3] = value
    rows = [Row(SamplingParams(**params), position=40 + i) for i in range(3)]
    with pytest.raises(LogitsError, match="the logits for position 41 are not finite") as refused:
        Sampler().sample(matrix, rows)
    assert refused.value.rows == (1,) and "40" not in str(refused.value)


def test_the_coldest_temperature_still_works() -> None:
    matrix = torch.tensor([[1e4, -1e4, 9.99e3, float("-inf")]])
    assert Sampler().sample(matrix, [Row(SamplingParams(temperature=1e-4))])[0].token_id == 0
