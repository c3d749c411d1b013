"""What quantising costs the embedded model, on text it was never trained on."""

from __future__ import annotations

import functools

import pytest

from brigade import LLM
from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.evaluate.score import logits_of, score_text
from brigade.evaluate.windows import WindowConfig, cut_windows
from examples.train_mini.data import read_sources

MOST = {"int8": 0.5, "int8-weight": 0.5, "int4": 3.0, "int4-int8": 3.0}  # percent of perplexity


@functools.cache
def perplexity(quant: str) -> float:
    """Over the beginning of every held-out file, as little as the slowest path reads in seconds; docs/export.md has the whole of
    them."""
    llm = LLM(quant=quant, kv_blocks=16, max_batch_size=1, max_step_tokens=512, prefill_chunk=512)
    _, held_out = read_sources()
    assert held_out and llm.tokenizer is not None
    ids = [llm.tokenizer.bos_id]
    for file in held_out:
        ids += llm.tokenizer.encode(file.text[:120], add_special_tokens=False)
    return score_text(logits_of(llm), ids, cut_windows(len(ids), WindowConfig(1024, 1024))).perplexity


SELDOM = ("int8-weight", "int4-int8")


@pytest.mark.parametrize("quant", [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in MOST])
def test_the_harm_is_below_its_bar(quant: str) -> None:
    assert abs(perplexity(quant) / perplexity("none") - 1) * 100 <= MOST[quant]
