"""`AsyncLLM`: the engine thread's face for tasks of an event loop."""

from __future__ import annotations

from typing import Any

from brigade.api.faces import AsyncFace, Params
from brigade.api.llm import LLM
from brigade.engine.prompt import Prompt
from brigade.engine.submission import Submission


class AsyncLLM(AsyncFace):
    """`model`: as for `LLM`, or an `LLM`, which goes on after `close`."""

    def __init__(self, model: Any = None, **settings: Any) -> None:
        super().__init__()
        self._owns_llm = not isinstance(model, LLM)
        self.llm: LLM = LLM(model, **settings) if self._owns_llm else model
        self.thread = self.llm.thread

    def _prepare(self, prompt: Prompt, params: Params) -> Submission:
        return self.llm._prepare(prompt, params)

    def close(self) -> None:
        super().close()
        if self._owns_llm:
            self.llm.close()
