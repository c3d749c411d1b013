"""One way to run a list of prompts: a layout, an engine and its settings, and the order in which requests come."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from brigade.assembly.choices import settle_engine
from brigade.errors import ConfigError
from brigade.verify.layout import ONE_RANK, Layout
from brigade.verify.record import MEASURES

Arrivals = Literal["together", "reversed"] | int | tuple[int, ...]
Bounds = dict[str, float]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`arrivals`: all at once, all at once with the last one first, so many a step, or the step of each prompt. `passes`: how often
    the same requests come to the same engine, which then knows them; each pass is compared. `plain`: greedy requests alone, as
    users send them, without log-probabilities and by the stock sampler. Ranks that share the vocabulary then send one pair for a
    row in place of its logits, so ids are all that can be compared. `kills`: how many replicas are killed on the way, where the
    layout has several."""

    name: str = ""
    layout: Layout = ONE_RANK
    engine: str = "dynamic"
    settings: dict[str, Any] = {}  # fields of EngineConfig
    arrivals: Arrivals = "together"
    passes: int = 1
    threads: int | None = None
    backend: str | None = None  # None: the model's
    device: str | None = None  # the same
    plain: bool = False
    kills: int = 0
    at_most: Bounds = {}
    at_least: Bounds = {}

    def __post_init__(self) -> None:
        settle_engine(self.engine, self.settings)
        steps = (self.arrivals,) if isinstance(self.arrivals, int) else self.arrivals
        if isinstance(self.arrivals, int) and self.arrivals < 1:
            raise ConfigError(f"arrivals is {self.arrivals}; give 1 or more requests a step")
        if isinstance(steps, tuple) and any(step < 0 for step in steps):
            raise ConfigError(f"arrivals names step {min(steps)}; steps are counted from 0")
        if self.passes < 1:
            raise ConfigError(f"passes is {self.passes}; it must be 1 or more")
        if self.kills < 0 or (self.kills and self.layout.dp == 1):
            raise ConfigError(f"kills is {self.kills}; it must be 0, or 1 or more where the layout has a dp of 2 or more")
        if self.layout.dp > 1 and self.arrivals != "together":
            raise ConfigError(f"arrivals is {self.arrivals}, but requests to replicas come together; drop arrivals, or dp")
        for name in (*self.at_most, *self.at_least):
            if name not in MEASURES:
                raise ConfigError(f"{name!r} is not measured; what can be bounded is {', '.join(MEASURES)}")

    def arrival_steps(self, count: int) -> list[tuple[int, int]]:
        """(step, number of the prompt) in the order in which they come."""
        if isinstance(self.arrivals, tuple):
            if len(self.arrivals) != count:
                raise ConfigError(f"arrivals names {len(self.arrivals)} steps for {count} prompts; give one step each")
            return sorted((step, number) for number, step in enumerate(self.arrivals))
        if isinstance(self.arrivals, int):
            return [(number // self.arrivals, number) for number in range(count)]
        numbers = range(count) if self.arrivals == "together" else reversed(range(count))
        return [(0, number) for number in numbers]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of a case, told by what it has of its own: `settings` are added to those of the case, anything else takes the place of
    the case's."""

    name: str | UnsetType = UNSET
    layout: Layout | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    settings: dict[str, Any] | UnsetType = UNSET
    arrivals: Arrivals | UnsetType = UNSET
    passes: int | UnsetType = UNSET
    threads: int | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    kills: int | UnsetType = UNSET
    at_most: Bounds | UnsetType = UNSET
    at_least: Bounds | UnsetType = UNSET

    def of(self, base: Run) -> Run:
        own = {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name) is not UNSET}
        if "settings" in own:
            own["settings"] = {**base.settings, **own["settings"]}
        return msgspec.structs.replace(base, **{"name": self.words(), **own})

    def words(self) -> str:
        """A name for a run that has none."""
        said = [] if self.layout is UNSET else [str(self.layout)]
        for name in ("engine", "backend", "device"):
            said += [] if getattr(self, name) is UNSET else [str(getattr(self, name))]
        for name in ("arrivals", "passes", "threads", "kills"):
            value = getattr(self, name)
            said += [] if value is UNSET else [f"{name} {value}"]
        said += [] if self.settings is UNSET else [f"{name} {value}" for name, value in self.settings.items()]
        return ", ".join(said) or "as recorded"
