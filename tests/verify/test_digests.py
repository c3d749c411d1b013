"""Digests of logits: every bit counts; order, company and earlier runs do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.verify.compare import Terms, compare
from brigade.verify.digests import DigestingSampler, digest
from brigade.verify.models import ModelChoice, Models
from brigade.verify.play import Ask, play
from brigade.verify.run import Run
from tests.verify.builders import write_case

GREEDY = SamplingParams(temperature=0.0)


@dataclass
class Row:
    request_id: str
    index: int = 0
    position: int = 7
    params: SamplingParams = GREEDY
    seed: int = 0
    prompt_token_ids: tuple = (1,)
    output_token_ids: list = field(default_factory=list)
    eos_ids: tuple = ()


def logits(rows: int) -> torch.Tensor:
    return torch.randn(rows, 33, generator=torch.Generator().manual_seed(rows))


def test_every_bit_of_every_logit_counts() -> None:
    row = logits(1)[0].numpy()
    seen = {digest(row)}
    for place in range(33):
        for bit in (0, 31):
            other = row.copy()
            other.view(np.uint32)[place] ^= np.uint32(1 << bit)
            seen.add(digest(other))
    assert len(seen) == 1 + 2 * 33


def test_neither_order_nor_company_shows() -> None:
    rows, whole = [Row("a"), Row("b", index=1), Row("b", position=8)], logits(3)
    together, apart = DigestingSampler(), DigestingSampler()
    together.sample(whole, rows)
    for place in (2, 0, 1):
        apart.sample(whole[place : place + 1], rows[place : place + 1])
    keys = [("a", 0, 7), ("b", 1, 7), ("b", 0, 8)]
    assert together.seen == {key: digest(row.numpy()) for key, row in zip(keys, whole, strict=True)}
    assert together.seen == apart.seen and len(set(together.seen.values())) == 3


def test_the_logits_are_only_read_and_the_ids_are_those_of_any_sampler() -> None:
    rows, whole = [Row("a"), Row("b", params=SamplingParams(seed=3), seed=3)], logits(2)
    before = whole.clone()
    assert DigestingSampler().sample(whole, rows) == Sampler().sample(whole, rows) and torch.equal(whole, before)
    assert type(DigestingSampler()) is not Sampler, "a plain sampler may be given the greatest logit alone"


def test_a_run_whose_logits_nobody_saw_is_not_the_same_as_the_one_before(tmp_path: Path) -> None:
    """Digests of an earlier run of the same requests must not stand in for those that are missing."""
    asks = [Ask("0", [1, 2, 3], {"temperature": 0, "max_tokens": 3, "logprobs": 0})]
    run = Run(settings={"block_size": 8, "kv_blocks": 8})
    with Models(ModelChoice(str(write_case(tmp_path / "case") / "tiny.yaml"), 1, backend="reference")) as models:
        loaded = models.get(run)
        (first,) = play(loaded, run, asks)
        loaded.sampler.sample = Sampler().sample
        (second,) = play(loaded, run, asks)
    assert compare(first, first, Terms()).is_same
    assert [str(one) for one in compare(first, second, Terms()).found] == ["request 0: the run has 0 digests for 3 ids"]
