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
    """What this LLM holds. A backend that packs or quantises says so itself: `backend.weight_bytes(model)` returns the bytes of
    (layers, head), and `backend.arithmetic` names what its products compute in; without them the parameters are counted."""
    held = getattr(llm.backend, "weight_dtype", llm.dtype)
    asked = getattr(llm.backend, "weight_bytes", None)
    layers, head = _parameter_bytes(llm.model) if asked is None else asked(llm.model)
    arithmetic = getattr(llm.backend, "arithmetic", str(held).removeprefix("torch."))
    row = (llm.config.embedding_size or llm.config.hidden_size) * held.itemsize
    return Weights(layers, head, row, llm.dtype.itemsize, arithmetic)


def _parameter_bytes(model: Any) -> tuple[int, int]:
    """A tied head is the embedding table, read whole; an embedding table that is no head is only looked up."""
    tables = {"embedding.word", "embedding.position"}
    sizes = {name: parameter.numel() * parameter.element_size() for name, parameter in model.named_parameters()}
    head = sum(size for name, size in sizes.items() if name.startswith("head.")) or sizes["embedding.word"]
    layers = sum(size for name, size in sizes.items() if name not in tables and not name.startswith("head."))
    return layers, head
