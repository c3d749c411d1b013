"""Requests that go on elsewhere: what each says undisturbed, cut at any token, and said to the end by another engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brigade.engine.engine import Engine
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import SamplingParams
from brigade.engine.submission import Delivered

WORDS = ("def ", "import os", "return", "for x in", "class A", "# größer als ✓", "\n    ", "é", "日本", "self.")


@dataclass(frozen=True)
class Asked:
    prompt: Any
    params: SamplingParams


@dataclass(frozen=True)
class Heard:
    """Of one sample: every delta in its order, and the whole."""

    deltas: Sequence[Delta]
    output: RequestOutput
    index: int

    @property
    def sample(self) -> Any:
        return self.output.samples[self.index]

    def until(self, tokens: int) -> Sequence[Delta]:
        """The deltas that a reader has who has heard so many tokens."""
        found, left = [], tokens
        for delta in self.deltas:
            if delta.token_ids and left == 0:
                break
            left -= len(delta.token_ids)
            found.append(delta)
        return found

    def delivered(self, tokens: int) -> Delivered:
        if tokens == 0:
            return Delivered()  # not even an echo
        known = self.until(tokens)
        return Delivered(tuple(i for delta in known for i in delta.token_ids), sum(len(delta.text) for delta in known))


def run(engine: Engine, asked: Sequence[Asked], said: Sequence[Sequence[Delivered]] | None = None) -> list[list[Heard]]:
    """All at once; of each request its samples."""
    for number, one in enumerate(asked):
        engine.submit(one.prompt, one.params, str(number), delivered=() if said is None else said[number])
    deltas: dict[str, list[Delta]] = {str(number): [] for number in range(len(asked))}
    while engine.has_work:
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
        engine.check()
    outputs = [engine.take_output(str(number)) for number in range(len(asked))]
    assert engine.pool.num_free == engine.pool.num_blocks
    return [
        [Heard([d for d in deltas[str(number)] if d.index == i], output, i) for i in range(len(output.samples))]
        for number, output in enumerate(outputs)
    ]


def check(whole: Sequence[Heard], rest: Sequence[Heard], cut: Sequence[int]) -> None:
    """What was heard before the cut and what came behind it are what the undisturbed request said."""
    for before, after, tokens in zip(whole, rest, cut, strict=True):
        a, b = before.sample, after.sample
        assert (b.token_ids, b.text, b.finish_reason, b.stop_reason, b.seed, b.error) == (
            a.token_ids, a.text, a.finish_reason, a.stop_reason, a.seed, a.error,
        )  # fmt: skip
        known = before.until(tokens) if tokens else []
        for field in ("token_ids", "text"):
            parts = [getattr(delta, field) for delta in (*known, *after.deltas)]
            joined = "".join(parts) if field == "text" else [i for part in parts for i in part]
            assert joined == getattr(a, field), (field, tokens)
        assert after.deltas[-1].finish_reason == a.finish_reason and all(d.finish_reason is None for d in after.deltas[:-1])
        if a.logprobs is not None:
            assert b.logprobs == a.logprobs[tokens:] == [one for delta in after.deltas for one in delta.logprobs or ()]
        assert after.output.prompt_logprobs == before.output.prompt_logprobs
        assert after.output.prompt == before.output.prompt


def requests(count: int, seed: int, known: Sequence[Heard] = ()) -> list[Asked]:
    """Of many kinds. `known`: what each says without anything that stops it. A string or an id of that stops half of them."""
    dice, cutter, found = random.Random(seed), random.Random(seed), []
    for number in range(count):
        prompt: Any = dice.choice(WORDS) * dice.randint(1, 4)
        if dice.random() < 0.4:
            prompt = [dice.randrange(1, 4000) for _ in range(dice.randint(1, 40))]
        given: dict[str, Any] = {"max_tokens": dice.randint(1, 14), "temperature": 0.0, "seed": number}
        if dice.random() < 0.7:
            given |= {"temperature": dice.choice([0.7, 1.0, 1.6]), "n": dice.choice([1, 1, 2, 3])}
            given |= dice.choice([{}, {"top_p": 0.8}, {"top_k": 20}, {"min_p": 0.02}])
        given |= dice.choice([{}, {"repetition_penalty": 1.4}, {"frequency_penalty": 0.8, "presence_penalty": 0.3}])
        given |= dice.choice([{}, {"min_tokens": min(5, given["max_tokens"])}, {"ignore_eos": True}])
        given |= dice.choice([{}, {"logprobs": dice.randint(0, 3)}, {"prompt_logprobs": 1, "logprobs": 0}])
        given |= dice.choice([{}, {}, {"echo": True}, {"logit_bias": {17: 4.0}}])
        if known and number % 4 == 3:
            given |= {"stop_token_ids": (cutter.choice(known[number].sample.token_ids),)}
        elif known and number % 2 and len(text := known[number].sample.text) > 3:
            at = cutter.randrange(len(text) - 2)
            given |= {"stop": (text[at : at + cutter.randint(1, 6)],), "include_stop": cutter.random() < 0.5}
        found.append(Asked(prompt, SamplingParams(**given)))
    return found
