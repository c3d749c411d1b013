"""A record on the disk: readable, exact, whole, and nothing in it that is not known."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brigade.errors import ConfigError
from brigade.verify.record import Record, from_json, read_record, to_json, write_record
from tests.verify.builders import record, with_sample

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(logprobs=st.tuples(float32s, float32s, float32s))
def test_numbers_come_back_with_the_same_bits(logprobs) -> None:
    found = from_json(to_json(with_sample("0", logprobs=logprobs))).requests["0"].samples[0].logprobs
    assert [struct.pack("<d", one) for one in found] == [struct.pack("<d", one) for one in logprobs]


def test_a_record_comes_back_whole(tmp_path: Path) -> None:
    whole = record(model="m", versions={"torch": "2"}, settings={"arrivals": [0, 1]}, measured={"seconds": 1.5})
    write_record(tmp_path / "golden.json", whole)
    assert read_record(tmp_path / "golden.json") == whole


def test_it_can_be_read_by_people(tmp_path: Path) -> None:
    write_record(tmp_path / "golden.json", record())
    lines = (tmp_path / "golden.json").read_text().splitlines()
    assert '     "token_ids": [5, 6, 7],' in lines and '     "logprobs": [-0.5, -1.25, -0.1],' in lines


def test_a_missing_golden_file_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"golden.json is missing; record it with `brigade verify record"):
        read_record(tmp_path / "golden.json")


def damaged(change):
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


DAMAGE = {
    "not JSON": (lambda path: path.write_text('{"requests": '), "is no record"),
    "brackets without end": (lambda path: path.write_text("[" * 100_000), "is no record"),
    "a field that is not known": (damaged(lambda content: content.update(extra=1)), "unknown field `extra`"),
    "a field that is missing": (damaged(lambda content: content.pop("numerics_id")), "missing required field `numerics_id`"),
    "another format": (damaged(lambda content: content.update(format="brigade-record-9")), "in format 'brigade-record-9'"),
    "a text for a number": (
        damaged(lambda content: content["requests"]["0"]["samples"][0].update(token_ids=["5"])), "Expected `int`, got `str`",
    ),
    "a request without answers": (damaged(lambda content: content["requests"]["0"].pop("samples")), "missing required field"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    write_record(path, record())
    damage, words = DAMAGE[name]
    damage(path)
    with pytest.raises(ConfigError) as caught:
        read_record(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (with_sample("1", finish_reason="error"), "request 1 ended with 'error'"),
        (with_sample("1", finish_reason="abort"), "request 1 ended with 'abort'"),
        (with_sample("0", logprobs=(-0.5, math.nan, -0.1)), "request 0 has a log-probability that is no finite number"),
    ],
)
def test_a_failure_is_no_golden_record(broken: Record, words: str) -> None:
    record().check_golden()
    with pytest.raises(ConfigError, match=words):
        broken.check_golden()
