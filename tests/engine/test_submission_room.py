"""The longest request is what the cache can hold, where that is less than what the model allows."""

from __future__ import annotations

import pytest

from brigade import LLM, SamplingParams
from brigade.errors import RequestError


def test_a_small_cache_is_the_limit_that_is_told_and_kept() -> None:
    with LLM("mini", kv_blocks=1) as llm:
        assert "(1 block of 64 = 64 positions)" in str(llm.plan) and str(llm.plan).endswith("requests up to 65 positions")
        assert llm.engine.limits.longest == 65
        (output,) = llm.generate([[5] * 60], SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))
        assert len(output.token_ids) == 5
        with pytest.raises(RequestError, match="66 prompt tokens and an answer exceed the limit of 65 positions") as error:
            llm.generate([[5] * 66], SamplingParams(max_tokens=None))
        assert error.value.kind == "too long"
        with pytest.raises(RequestError, match="the cache has 1: shorten the prompt or lower max_tokens, or raise kv") as error:
            llm.generate([[5] * 10], SamplingParams(max_tokens=200))
        assert error.value.kind == "too long"
