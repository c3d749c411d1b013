"""CTranslate2's generator. Its interface takes strings, so ids become its vocabulary's, under the clock."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2

from benchmarks.peers.protocol import Answer, Setup, serve


class CTranslate2:
    def __init__(self, setup: Setup) -> None:
        kind = setup.settings["compute_type"]
        able = ctranslate2.get_supported_compute_types("cpu")
        if kind not in able:
            raise RuntimeError(f"it computes in {', '.join(sorted(able))} on this processor, not in {kind}")
        self._generator = ctranslate2.Generator(
            setup.folder, device="cpu", compute_type=kind, inter_threads=1, intra_threads=setup.threads
        )
        self._words = json.loads((Path(setup.folder) / "vocabulary.json").read_text(encoding="utf-8"))
        self.about = f"ctranslate2 {ctranslate2.__version__}, {self._generator.compute_type}"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        words = [[self._words[token] for token in prompt] for prompt in prompts]
        missing, firsts, begun = set(range(len(prompts))), [], time.perf_counter()

        def came(step: ctranslate2.GenerationStepResult) -> bool:
            missing.discard(step.batch_id)
            if not missing and not firsts:
                firsts.append(time.perf_counter() - begun)
            return False  # go on

        results = self._generator.generate_batch(
            words, max_length=new_tokens, min_length=new_tokens, sampling_topk=1, beam_size=1, include_prompt_in_result=False,
            callback=came,
        )  # fmt: skip
        return Answer([list(result.sequences_ids[0]) for result in results], firsts[0] if firsts else None)


if __name__ == "__main__":
    serve(CTranslate2)
