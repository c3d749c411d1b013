"""Over how many ranks a model is cut, as a case or a row of the matrix says it; here alone it becomes arguments of `LLM`."""

from __future__ import annotations

from typing import Any

import msgspec

from brigade.backends.base import G
from brigade.backends.exact_math import tree_width
from brigade.config import ModelConfig
from brigade.errors import ConfigError

# What the matrix tries, where a model can have it: each axis alone, then bounded crosses.
DEGREES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 2), (4, 2), (2, 4))


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pp_layers`: how many layers each stage has, where that is settled by hand."""

    tp: int = 1
    pp: int = 1
    pp_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "pp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.pp_layers and len(self.pp_layers) != self.pp:
            raise ConfigError(f"pp_layers names {len(self.pp_layers)} stages, but pp is {self.pp}; give one number a stage")

    @property
    def ranks(self) -> int:
        return self.tp * self.pp

    def __str__(self) -> str:
        names = [f"{axis}{degree}" for axis, degree in (("tp", self.tp), ("pp", self.pp)) if degree > 1]
        layers = f" ({','.join(map(str, self.pp_layers))})" if self.pp_layers else ""
        return (" x ".join(names) or "1 rank") + layers

    def arguments(self) -> dict[str, Any]:
        """Of `LLM`: none for one rank."""
        given = {name: degree for name, degree in (("tp", self.tp), ("pp", self.pp)) if degree > 1}
        return given | ({"pp_layers": list(self.pp_layers)} if self.pp_layers else {})


ONE_RANK = Layout()


def possible_layouts(config: ModelConfig) -> list[Layout]:
    return [Layout(tp, pp) for tp, pp in DEGREES if _can_have(config, tp, pp)]


def _can_have(config: ModelConfig, tp: int, pp: int) -> bool:
    if pp > config.num_layers:
        return False
    if tp == 1:
        return True
    widths = [config.ffn_size] if config.moe is None else [config.moe.expert_ffn_size, config.moe.shared_ffn_size]
    shared = config.num_kv_heads % tp == 0 or tp % config.num_kv_heads == 0
    summed = [config.num_heads * config.head_dim, *(width for width in widths if width)]
    return config.num_heads % tp == 0 and shared and config.qk_norm != "full" and all(tp <= tree_width(k, G) for k in summed)
