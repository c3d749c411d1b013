"""Ours, through its engine's own interface."""

from __future__ import annotations

import time

from benchmarks.peers.protocol import Answer, Setup, serve
from brigade.api.llm import LLM
from brigade.engine.sampling.params import SamplingParams

MOST, PROMPT, LENGTH = 32, 128, 256  # requests at once, ids of a prompt, positions of the longest request


class Ours:
    """A step takes all prompts of the largest batch, so that every batch starts at once."""

    def __init__(self, setup: Setup) -> None:
        recipe, seed = setup.settings["recipe"], setup.settings["seed"]
        self._llm = LLM(
            recipe, random_weights=seed, dtype="bfloat16", quant=setup.settings["quant"], engine="dynamic", threads=setup.threads,
            max_batch_size=MOST, max_model_len=LENGTH, max_step_tokens=MOST * PROMPT, prefill_chunk=PROMPT, prefix_cache=False,
        )  # fmt: skip
        self.about = f"{self._llm.number_formats}; {self._llm.numerics_id}, dynamic engine"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        engine, begun, first = self._llm.engine, time.perf_counter(), None
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        names = [engine.submit(prompt, params) for prompt in prompts]
        missing = set(names)
        while engine.has_work:
            missing -= {delta.request_id for delta in engine.step() if delta.token_ids}
            if first is None and not missing:
                first = time.perf_counter() - begun
        return Answer([list(engine.take_output(name).token_ids) for name in names], first)


if __name__ == "__main__":
    serve(Ours)
