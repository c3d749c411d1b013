"""llama.cpp through its C interface: a batch of sequences, as its own batched benchmark does it, flash attention on."""

from __future__ import annotations

import time
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.peers.protocol import Answer, Setup, serve

MOST, PROMPT, LENGTH = 32, 128, 256  # requests at once, ids of a prompt, positions of the longest request
STEP = 2048  # tokens of one decode call, its own default; it computes 512 of them at once, which is its default too


class LlamaCpp:
    def __init__(self, setup: Setup) -> None:
        llama_cpp.llama_backend_init()
        path = str(Path(setup.folder) / "model.gguf").encode()
        self._model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = MOST * LENGTH, MOST, STEP
        params.n_threads = params.n_threads_batch = setup.threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = self._model and llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp cannot open the model; its log says why")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(STEP, 0, 1)
        self.about = f"llama-cpp-python {llama_cpp.__version__}, flash attention"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        begun = time.perf_counter()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        answers = [[token] for token in self._prefill(prompts)]
        first = time.perf_counter() - begun
        length = len(prompts[0])
        for number in range(new_tokens - 1):
            self._fill([(ids[-1], length + number, sequence, True) for sequence, ids in enumerate(answers)])
            self._decode()
            for sequence, ids in enumerate(answers):
                ids.append(self._best(sequence))
        return Answer(answers, first)

    def _prefill(self, prompts: list[list[int]]) -> list[int]:
        """Whole prompts, as many as a call takes. The logits of a call must be read before the next."""
        most, found = STEP // len(prompts[0]), []
        for low in range(0, len(prompts), most):
            rows, ends = [], []
            for sequence in range(low, min(low + most, len(prompts))):
                prompt = prompts[sequence]
                rows += [(token, place, sequence, place == len(prompt) - 1) for place, token in enumerate(prompt)]
                ends.append(len(rows) - 1)
            self._fill(rows)
            self._decode()
            found += [self._best(end) for end in ends]
        return found

    def _fill(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, place, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, place, 1, wanted
            batch.seq_id[i][0] = sequence

    def _decode(self) -> None:
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _best(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self._vocab_size,))))


if __name__ == "__main__":
    serve(LlamaCpp)
