"""OpenVINO GenAI, through both of its pipelines."""

from __future__ import annotations

import os
import time

import numpy as np
import openvino
import openvino_genai as genai

from benchmarks.peers.protocol import Answer, Setup, serve

MOST, PROMPT = 32, 128  # requests at once, ids of a prompt
# Held to AVX2 on a processor that has more it would still choose bf16 kernels, and quantize rows for products that are not there
# then, and end in an error. A processor that has AVX2 alone computes in float32, and quantizes no rows.
HELD = os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2"
HINT = "f32" if HELD else "bf16"
TOLD = "f32 hint, rows not quantized" if HELD else "bf16 hint"


def greedy(new_tokens: int) -> genai.GenerationConfig:
    config = genai.GenerationConfig()
    config.max_new_tokens, config.min_new_tokens = new_tokens, new_tokens
    config.ignore_eos, config.do_sample = True, False
    return config


def properties(setup: Setup) -> dict[str, object]:
    chosen = {"INFERENCE_NUM_THREADS": setup.threads, "INFERENCE_PRECISION_HINT": HINT, "PERFORMANCE_HINT": "LATENCY"}
    return chosen | ({"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0} if HELD else {})


class Static:
    """The stateful pipeline, which runs one batch from its prompts to its end."""

    def __init__(self, setup: Setup) -> None:
        self._pipe = genai.LLMPipeline(setup.folder, "CPU", ATTENTION_BACKEND="SDPA", **properties(setup))
        self.about = f"openvino-genai {genai.__version__}, LLMPipeline, ATTENTION_BACKEND=SDPA, {TOLD}"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        ids = np.array(prompts, dtype=np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result = self._pipe.generate(inputs, greedy(new_tokens))
        return Answer([list(tokens) for tokens in result.tokens], result.perf_metrics.get_ttft().mean / 1e3)


class Batching:
    """Continuous batching: paged attention, a step that takes all prompts at once, no prefix cache."""

    def __init__(self, setup: Setup) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1  # GB
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = MOST * PROMPT, MOST
        scheduler.enable_prefix_caching = False
        self._pipe = genai.ContinuousBatchingPipeline(setup.folder, scheduler, "CPU", properties(setup))
        self.about = f"openvino-genai {genai.__version__}, ContinuousBatchingPipeline, {TOLD}"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        begun, first = time.perf_counter(), None
        handles = [
            self._pipe.add_request(number, openvino.Tensor(np.array([ids], dtype=np.int64)), greedy(new_tokens))
            for number, ids in enumerate(prompts)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            for ids, handle in zip(answers, handles, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        ids += output.generated_ids
            if first is None and all(answers):
                first = time.perf_counter() - begun
        return Answer(answers, first)


def load(setup: Setup) -> Static | Batching:
    return {"static": Static, "batching": Batching}[setup.settings["pipeline"]](setup)


if __name__ == "__main__":
    serve(load)
