"""A request that began on one rank goes on over four, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

from brigade import LLM
from brigade.backends.cpu.library import find_kernels
from tests.api.small_model import write_model
from tests.engine.going_on import check, requests, run

SETTINGS = {"kv_blocks": 64, "block_size": 32, "max_batch_size": 12, "max_step_tokens": 64, "prefill_chunk": 48}


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
def test_from_one_rank_to_four_and_back(tmp_path: Path) -> None:
    folder, asked = write_model(tmp_path / "model"), requests(40, seed=3)
    with LLM(folder, **SETTINGS) as one, LLM(folder, tp=2, pp=2, **SETTINGS) as four:
        whole = run(one.make_engine("dynamic", **SETTINGS), asked)
        for tokens, target in ((0, four), (1, four), (4, four), (6, one), (9, four), (14, four)):
            cuts = [[min(tokens, len(heard.sample.token_ids)) for heard in each] for each in whole]
            said = [[heard.said(cut) for heard, cut in zip(each, own, strict=True)] for each, own in zip(whole, cuts, strict=True)]
            engine = target.make_engine("dynamic", **SETTINGS)
            for before, after, cut in zip(whole, run(engine, asked, said), cuts, strict=True):
                check(before, after, cut)
            engine.close()
