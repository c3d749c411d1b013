"""A request that began on one rank goes on over four, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brigade import LLM
from brigade.backends.cpu.library import find_kernels
from tests.api.small_model import write_model
from tests.engine.constraint.test_same_tokens import constrained
from tests.engine.going_on import Heard, check, requests, run

SETTINGS = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
def test_from_one_rank_to_four_and_back(tmp_path: Path) -> None:
    folder, asked = write_model(tmp_path / "model"), requests(40, seed=3) + constrained(18)
    with LLM(folder, **SETTINGS) as one, LLM(folder, tp=2, pp=2, **SETTINGS) as four:
        began = {llm: said_to_the_end(llm, asked) for llm in (one, four)}
        for tokens, first, then in (
            (0, one, four),
            (1, one, four),
            (4, one, four),
            (6, four, one),
            (9, four, four),
            (14, one, four),
        ):
            whole = began[first]
            cuts = [[min(tokens, len(heard.sample.token_ids)) for heard in each] for each in whole]
            known = [
                [heard.delivered(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)
            ]
            for before, after, cut in zip(whole, said_to_the_end(then, asked, known), cuts, strict=True):
                check(before, after, cut)


def said_to_the_end(llm: LLM, *what: Any) -> list[list[Heard]]:
    engine = llm.make_engine("dynamic", **SETTINGS)
    try:
        return run(engine, *what)
    finally:
        engine.close()
