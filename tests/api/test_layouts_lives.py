"""Random lives of engines under tensor parallel 2 x pipeline parallel 2, with real ranks: whatever happens to a request, it says
what it says alone on one rank, and no block is lost. `tests/engine/test_any_depth.py` plays many more, with fake models."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from brigade.engine.engine import Engine
from tests.api.small_model import BAD_SEED, POISON, ids, said
from tests.engine.test_any_depth import check_marks

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

PREFIXES = ([], ids(40, 20), ids(70, 21), [7, POISON])
LONGEST = 70 + 30 + 12
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0}, {"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 1.2, "top_p": 0.8},
    {"temperature": 0.0, "repetition_penalty": 1.3}, {"temperature": 0.7, "presence_penalty": 0.5}, {"seed": BAD_SEED},
    {"temperature": 0.0, "extra": {"fails_at_output": 2}}, {"temperature": 0.0, "logit_bias": {77: 4.0}},
)  # fmt: skip
MORE: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"logprobs": 2}, {"prompt_logprobs": 1}, {"echo": True}, {"max_tokens": 0, "prompt_logprobs": 0}, {"n": 3},
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    prompt: list[int]
    params: SamplingParams
    at_step: int
    end_after: int | None  # steps until it is given up
    collect: bool  # its logits are asked for


@dataclass(frozen=True)
class Life:
    kind: str
    settings: dict[str, Any]
    asks: list[Ask]


def draw(seed: int) -> Life:
    generator = random.Random(seed)
    running = generator.randint(1, 5)
    settings = {
        "max_batch_size": running, "max_step_tokens": running + generator.choice([0, 5, 30, 90]), "block_size": 32,
        "prefill_chunk": generator.choice([3, 32, 64]), "kv_blocks": 4 + generator.choice([0, 1, 3, 20]),
    }  # fmt: skip
    kind = generator.choice(["dynamic", "dynamic", "static"])
    if kind == "dynamic":
        settings["prefix_cache"] = generator.random() < 0.7
    return Life(kind, settings, [draw_ask(generator) for _ in range(generator.randint(2, 6))])


def draw_ask(generator: random.Random) -> Ask:
    prompt = generator.choice(PREFIXES) + [generator.randrange(1, POISON) for _ in range(generator.randint(1, 30))]
    given = {"max_tokens": generator.randint(1, 12), "priority": generator.randint(-1, 1), "seed": generator.randint(0, 9)}
    given |= generator.choice(SAMPLING) | generator.choice(MORE)
    collect = generator.random() < 0.1
    params = SamplingParams(max_tokens=1) if collect else SamplingParams(**given)
    return Ask(prompt, params, generator.randint(0, 9), generator.choice([None, None, generator.randint(0, 9)]), collect)


def play(engine: Engine, asks: list[Ask], seen: Counter[str]) -> list[Any]:
    """Outputs or logits, in the order of the asks; the books are checked after every step."""
    step, started = 0, 0
    while started < len(asks) or engine.has_work:
        for number, ask in enumerate(asks):
            if ask.at_step == step:
                engine.submit(ask.prompt, ask.params, str(number), collect_logits=ask.collect)
                started += 1
            if ask.end_after is not None and step == ask.at_step + ask.end_after and not engine.is_finished(str(number)):
                engine.abort(str(number))
        engine.step()
        seen["steps behind others"] += len(engine.under_way)
        check_marks(engine)
        step += 1
        assert step < 5000, "the engine hangs"
    assert engine.pool.num_free == engine.pool.num_blocks, "a block was lost"
    names = [str(number) for number in range(len(asks))]
    return [engine.take_logits(name) if engine.collects_logits(name) else engine.take_output(name) for name in names]


def check(asks: list[Ask], found: list[Any], alone: LLM, seen: Counter[str]) -> None:
    """What came to its end is what it is alone on one rank; what was given up is the beginning of it."""
    for ask, said_now in zip(asks, found, strict=True):
        if isinstance(said_now, torch.Tensor):
            expected = alone.logits([ask.prompt])[0]
            assert torch.equal(said_now.nan_to_num(7e7), expected.nan_to_num(7e7))
            seen["logits"] += 1
            continue
        expected = alone.generate([ask.prompt], ask.params)[0]
        for sample, whole in zip(said_now.samples, expected.samples, strict=True):
            seen[sample.finish_reason] += 1
            seen["preemptions"] += sample.metrics.preemptions
            seen["known tokens"] += sample.metrics.cached_tokens
            if sample.finish_reason != "abort":
                assert said(sample) == said(whole)
                continue
            assert ask.end_after is not None, "nobody gave it up"
            if not ask.collect:
                count = len(sample.token_ids)
                assert sample.token_ids == whole.token_ids[:count]
                assert sample.logprobs == (None if whole.logprobs is None else whole.logprobs[:count])
        if all(sample.finish_reason in ("stop", "length") for sample in said_now.samples):
            assert said_now.prompt_logprobs == expected.prompt_logprobs


def live(alone: LLM, ranks: LLM, seeds: range) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds:
        life = draw(seed)
        engine = ranks.make_engine(life.kind, **life.settings)
        try:
            check(life.asks, play(engine, life.asks, seen), alone, seen)
        except BaseException as error:
            error.add_note(f"life {seed}: {life}")
            raise
        engine.close()
    print(dict(seen))
    for what in ("steps behind others", "logits", "length", "error", "abort", "preemptions", "known tokens"):
        assert seen[what] > 2, f"these lives hardly have {what}: {seen}"


def test_forty_lives(layouts) -> None:
    live(*layouts("tp2-pp2"), range(40))


@pytest.mark.slow
def test_a_thousand_lives(layouts) -> None:
    live(*layouts("tp2-pp2"), range(1000, 2000))
