"""Over how many ranks a model is cut, as a case or a row of the matrix says it; here alone it becomes arguments of `LLM`."""

from __future__ import annotations

from typing import Any

import msgspec

from brigade.config import ModelConfig
from brigade.errors import ConfigError
from brigade.parallel.degrees import obstacle

# What the matrix tries, where a model can have it: each axis alone, then bounded crosses.
DEGREES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 2), (4, 2), (2, 4))


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pp_layers`: how many layers each stage has, where that is settled by hand. `dp`: replicas of all this, behind a
    coordinator."""

    tp: int = 1
    pp: int = 1
    pp_layers: tuple[int, ...] = ()
    dp: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.pp_layers and len(self.pp_layers) != self.pp:
            raise ConfigError(f"pp_layers names {len(self.pp_layers)} stages, but pp is {self.pp}; give one number a stage")

    @property
    def ranks(self) -> int:
        """Of one replica."""
        return self.tp * self.pp

    def __str__(self) -> str:
        names = [f"{axis}{degree}" for axis, degree in (("tp", self.tp), ("pp", self.pp), ("dp", self.dp)) if degree > 1]
        layers = f" ({','.join(map(str, self.pp_layers))})" if self.pp_layers else ""
        return (" x ".join(names) or "1 rank") + layers

    def arguments(self) -> dict[str, Any]:
        """Of `LLM`: none for one rank."""
        given = {name: degree for name, degree in (("tp", self.tp), ("pp", self.pp)) if degree > 1}
        return given | ({"pp_layers": list(self.pp_layers)} if self.pp_layers else {})


ONE_RANK = Layout()


def possible_layouts(config: ModelConfig) -> list[Layout]:
    return [Layout(tp, pp) for tp, pp in DEGREES if pp <= config.num_layers and obstacle(config, tp) is None]
