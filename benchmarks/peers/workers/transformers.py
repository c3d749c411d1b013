"""transformers' own `generate`, with scaled dot-product attention."""

from __future__ import annotations

import time

import torch
import transformers

from benchmarks.peers.protocol import Answer, Setup, serve


class FirstToken(transformers.StoppingCriteria):
    """Stops nothing; it is asked after every token, and remembers the first time."""

    def __init__(self) -> None:
        self.begun, self.seconds = time.perf_counter(), None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.seconds = self.seconds or time.perf_counter() - self.begun
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Transformers:
    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        dtype = setup.settings["dtype"]
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            setup.folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.about = f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}, sdpa"

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        ids, first = torch.tensor(prompts), FirstToken()
        out = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, num_beams=1,
            eos_token_id=None, pad_token_id=0, stopping_criteria=transformers.StoppingCriteriaList([first]),
        )  # fmt: skip
        return Answer(out[:, ids.shape[1] :].tolist(), first.seconds)


if __name__ == "__main__":
    serve(Transformers)
