"""What a step must read of a loaded model, and in which arithmetic it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brigade.errors import ConfigError


@dataclass(frozen=True)
class Weights:
    """Bytes: of all layers, of the head, of one row of the embedding table, and of one element of the KV cache."""

    layers: int
    head: int
    row: int
    kv_element: int
    arithmetic: str  # a name of `Ceilings.rates`

    def __post_init__(self) -> None:
        for name in ("layers", "head", "row", "kv_element"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} takes {getattr(self, name)} bytes; it must be 1 or more")


def weights_of(llm: Any) -> Weights:
    """What this LLM holds, as its backend says."""
    layers, head = llm.weight_bytes()
    row = (llm.config.embedding_size or llm.config.hidden_size) * llm.backend.held_dtype(llm.dtype).itemsize
    return Weights(layers, head, row, llm.dtype.itemsize, llm.backend.arithmetic)
