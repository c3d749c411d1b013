"""A cache salt: requests of different salts share no blocks, say the same, and lose none."""

from __future__ import annotations

import itertools

import pytest

from brigade import LLM, SamplingParams
from brigade.engine.block_pool import ROOT, root_of
from brigade.errors import RequestError

IDS = list(range(5, 205))  # three full blocks of 64, and some more


@pytest.fixture(scope="module")
def llm():
    with LLM(max_batch_size=4, kv_blocks=24) as made:
        yield made


def run(llm: LLM, salt: str | None, ids: list[int] = IDS, **more) -> tuple[list[int], int]:
    (found,) = llm.generate([ids], SamplingParams(**{"max_tokens": 6, "seed": 3, "cache_salt": salt} | more))
    return found.token_ids, found.metrics.cached_tokens


def test_each_salt_has_cached_prompts_of_its_own(llm: LLM) -> None:
    first = {salt: run(llm, salt) for salt in (None, "a", "b", "")}
    assert [cached for _, cached in first.values()] == [0, 0, 0, 0]
    again = {salt: run(llm, salt) for salt in first}
    assert [cached for _, cached in again.values()] == [192, 192, 192, 192]
    assert len({tuple(ids) for ids, _ in (*first.values(), *again.values())}) == 1, "a salt changes no token"
    assert llm.thread.wait_idle(5) and llm.engine.pool.num_free == 24


def test_requests_at_once_share_blocks_by_their_salts_alone(llm: LLM) -> None:
    ids = [7] * 256
    params = [SamplingParams(max_tokens=30, seed=1, ignore_eos=True, cache_salt=salt) for salt in ("x", "x", "y", None)]
    outputs = llm.generate([ids] * 4, params)
    assert len({tuple(output.token_ids) for output in outputs}) == 1
    assert outputs[2].metrics.cached_tokens == outputs[3].metrics.cached_tokens == 0
    assert llm.thread.wait_idle(5) and llm.engine.pool.num_free == 24


def test_blocks_of_many_salts_are_evicted_like_any_others(llm: LLM) -> None:
    """24 blocks hold the prompts of six salts; the oldest make room."""
    before = [run(llm, f"salt {number}", max_tokens=1) for number in range(20)]
    assert [cached for _, cached in before] == [0] * 20 and len({tuple(ids) for ids, _ in before}) == 1
    assert run(llm, "salt 19", max_tokens=1)[1] == 192 and run(llm, "salt 0", max_tokens=1)[1] == 0
    assert llm.thread.wait_idle(5) and llm.engine.pool.num_free == 24
    llm.engine.pool.check([])


def test_no_two_salts_have_the_same_root_and_none_is_a_nodes() -> None:
    roots = [root_of(salt) for salt in (None, "", "a", "b", "a" * 256, "a" * 255 + "b", "\u00e9", "e\u0301")]
    assert roots[0] == ROOT and all(root < 0 for root in roots[1:])
    assert all(one != other for one, other in itertools.combinations(roots, 2))
    assert root_of("a") == roots[2]


@pytest.mark.parametrize("salt", ["x" * 257, 5, b"a"])
def test_a_salt_that_is_none_is_refused(salt) -> None:
    with pytest.raises(RequestError, match="cache_salt is .* at most 256 characters"):
        SamplingParams(cache_salt=salt)
