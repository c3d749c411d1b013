"""The engine's settings, validated once; where a limit depends on the model, the memory plan checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brigade.errors import ConfigError

EngineKind = Literal["static", "dynamic"]


@dataclass(frozen=True)
class EngineConfig:
    max_batch_size: int = 32  # requests that run at once
    block_size: int = 64  # positions of one KV block
    kv_blocks: int | None = None  # None: what kv_memory holds
    kv_memory: int | None = None  # bytes for KV blocks; None: a share of what is free
    max_step_tokens: int = 512  # new tokens of one step, decode and prefill together
    prefill_chunk: int = 256  # of one request in one step, so that a long prompt leaves room for the next
    prefix_cache: bool = True
    max_model_len: int | None = None  # prompt and output together; None: what the model was made for
    max_waiting: int = 65536  # requests that may wait for their start; one more is refused at once

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "block_size", "max_step_tokens", "prefill_chunk", "max_waiting"):
            self._positive(name, getattr(self, name))
        for name in ("kv_blocks", "kv_memory", "max_model_len"):
            if getattr(self, name) is not None:
                self._positive(name, getattr(self, name))
        if self.kv_blocks is not None and self.kv_memory is not None:
            raise ConfigError("kv_blocks and kv_memory both size the KV cache; give one of them")
        if self.max_step_tokens < self.max_batch_size:
            raise ConfigError(
                f"max_step_tokens is {self.max_step_tokens}, below max_batch_size {self.max_batch_size}: a step must have "
                "room for one token of every running request; raise the one or lower the other"
            )

    @staticmethod
    def _positive(name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be an integer above 0")
