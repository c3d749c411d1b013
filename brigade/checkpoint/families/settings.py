"""Reading a foreign `config.json`: old and new spellings, and refusing what would change the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from brigade.config import Activation, RopeConfig
from brigade.errors import CheckpointError

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip


class Settings:
    """A `config.json`, asked by name; a setting that is needed and absent is one clear line."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __call__(self, name: str, default: Any = ...) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is ...:
            raise CheckpointError(f"config.json has no {name!r}, which {self._values.get('model_type')} models need; add it")
        return default

    def activation(self, *names: str) -> Activation:
        found = next((self._values[name] for name in names if self._values.get(name)), None)
        if found not in ACTIVATIONS:
            raise CheckpointError(f"activation {found!r} is not supported; known: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[found]

    def require(self, name: str, expected: Any, why: str) -> None:
        """Refuse a setting that this family's network here does not follow."""
        value = self._values.get(name)
        if value is not None and value != expected:
            raise CheckpointError(f"config.json sets {name} to {value!r}; {why} (only {expected!r} is supported)")

    def windowed_layers(self, layers: int) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self("layer_types", ())[:layers]) if kind == "sliding_attention")

    def head_dim(self) -> int:
        return self("head_dim", self("hidden_size") // self("num_attention_heads"))

    def rope(self, head_dim: int, kind: str | None = None, theta: float = 10000.0, partial: float = 1.0) -> RopeConfig:
        """`kind` picks one entry where a model has several ropes by layer type."""
        given = self("rope_parameters", None)
        if given is not None and kind is not None and kind in given:
            given = given[kind]
        if given is None:  # the older spelling
            given = {"rope_theta": self("rope_theta", theta), **(self("rope_scaling", {}) or {})}
        return self._rope(dict(given), head_dim, theta, partial)

    def _rope(self, given: dict[str, Any], head_dim: int, theta: float, partial: float) -> RopeConfig:
        scaling = given.get("rope_type", given.get("type", "default"))
        share = given.get("partial_rotary_factor", self("partial_rotary_factor", partial))
        common = {"theta": float(given.get("rope_theta", theta)), "rotary_dim": int(head_dim * share)}
        original = given.get("original_max_position_embeddings", self("original_max_position_embeddings", 0))
        longest = self("max_position_embeddings", 0)
        match scaling:
            case "default":
                return RopeConfig(**common)
            case "linear":
                return RopeConfig(**common, scaling="linear", factor=given["factor"])
            case "llama3":
                return RopeConfig(
                    **common, scaling="llama3", factor=given["factor"], low_freq_factor=given["low_freq_factor"],
                    high_freq_factor=given["high_freq_factor"], original_positions=original,
                )  # fmt: skip
            case "yarn":
                return RopeConfig(
                    **common, scaling="yarn", factor=given["factor"], original_positions=original or longest,
                    beta_fast=given.get("beta_fast", 32.0), beta_slow=given.get("beta_slow", 1.0),
                    attention_factor=given.get("attention_factor") or 0.1 * math.log(max(given["factor"], 1.0)) + 1.0,
                )  # fmt: skip
            case "longrope" | "su":
                # The factors are chosen by the length the model is configured for, never by the running length: else the
                # logits at one position would depend on how long the text becomes.
                stretched = longest > original
                ratio = longest / original
                attention = 1.0 if ratio <= 1.0 else math.sqrt(1 + math.log(ratio) / math.log(original))
                return RopeConfig(
                    **common, scaling="longrope", original_positions=original,
                    channel_factors=tuple(given["long_factor" if stretched else "short_factor"]),
                    attention_factor=given.get("attention_factor") or attention,
                )  # fmt: skip
        raise CheckpointError(
            f"rope scaling {scaling!r} is not supported; known: default, linear, llama3, yarn, longrope"
            + (" (dynamic scaling makes logits depend on the length of the text)" if scaling == "dynamic" else "")
        )
