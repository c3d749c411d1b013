"""An engine without a server, in a process of its own: what `benchmarks/serve.py` compares a server with.

It speaks the protocol of `benchmarks/peers/protocol.py`. Its settings are a `model` and the `options` of `LLM`.
"""

from __future__ import annotations

import time

from benchmarks.peers.protocol import Answer, Setup, serve
from brigade.api.llm import LLM
from brigade.engine.sampling.params import SamplingParams


class Bare:
    def __init__(self, setup: Setup) -> None:
        self._llm = LLM(setup.settings["model"], **setup.settings["options"])
        self.about = f"{self._llm.number_formats}; {self._llm.numerics_id}"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        """As a program calls it: all prompts at once, tokens as they come."""
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        ids: list[list[int]] = [[] for _ in prompts]
        missing, first, begun = set(map(str, range(len(prompts)))), None, time.perf_counter()
        for delta in self._llm.stream(prompts, params):
            ids[int(delta.request_id)] += delta.token_ids
            if missing:
                missing.discard(delta.request_id)
                if not missing:
                    first = time.perf_counter() - begun
        return Answer(ids, first)


if __name__ == "__main__":
    serve(Bare)
