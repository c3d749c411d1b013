"""Simulated requests: a pure function of the seed, so that two engines can be given the same ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brigade.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Simulated:
    """One request to come: when, what, and how much of an answer."""

    number: int
    prompt: Any  # text or ids
    max_tokens: int
    at_second: float | None = None  # Poisson arrivals
    at_step: int = 0  # so many a step


@dataclass(frozen=True)
class WorkloadConfig:
    """Where requests come from. Exactly one way of arriving: all at once, so many a step, or so many a second."""

    num_requests: int = 32
    prompt_length: tuple[int, int] = (16, 128)
    output_length: tuple[int, int] = (8, 128)
    lengths: str = "uniform"
    requests_per_step: int | None = None
    requests_per_second: float | None = None
    duration: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt_length", "output_length"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ConfigError(f"{name.replace('_', '-')} is {low} to {high}; it must be 1 or more, the lower bound first")
        if self.lengths not in ("uniform", "skewed"):
            raise ConfigError(f"lengths is {self.lengths!r}; it must be uniform or skewed")
        if self.requests_per_step is not None and self.requests_per_second is not None:
            raise ConfigError("requests-per-step and requests-per-second are two ways of arriving; give one")
        if (self.requests_per_second is None) != (self.duration is None):
            raise ConfigError("requests-per-second and duration belong together; give both")
        for name in ("num_requests", "requests_per_step", "requests_per_second", "duration"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name.replace('_', '-')} is {value}; it must be above 0")

    @property
    def source(self) -> str:
        if self.requests_per_second is not None:
            return f"Poisson, {self.requests_per_second:g} requests/s for {self.duration:g} s, seed {self.seed}"
        if self.requests_per_step is not None:
            return f"{self.requests_per_step} requests a step"
        return "all at once"


def _length(generator: random.Random, bounds: tuple[int, int], shape: str) -> int:
    """Uniform, or skewed as real answers are: mostly short, a few long (the cube of a uniform number)."""
    low, high = bounds
    share = generator.random()
    return low + round((high - low) * (share if shape == "uniform" else share**3))


def simulate(config: WorkloadConfig, vocab_size: int, prompts: Sequence[Any] = ()) -> list[Simulated]:
    """Given prompts are repeated in turn; without any, ids are drawn."""
    generator = random.Random(config.seed)
    moments = _moments(config, generator, len(prompts))
    requests = []
    for number, moment in enumerate(moments):
        if prompts:
            prompt = prompts[number % len(prompts)]
        else:
            length = _length(generator, config.prompt_length, "uniform")
            prompt = [generator.randrange(vocab_size) for _ in range(length)]
        step = number // config.requests_per_step if config.requests_per_step else 0
        requests.append(Simulated(number, prompt, _length(generator, config.output_length, config.lengths), moment, step))
    return requests


def _moments(config: WorkloadConfig, generator: random.Random, given: int) -> list[float | None]:
    if config.requests_per_second is None:
        return [None] * (given or config.num_requests)
    assert config.duration is not None
    moments, now = [], generator.expovariate(config.requests_per_second)
    while now < config.duration:
        moments.append(now)
        now += generator.expovariate(config.requests_per_second)
    if not moments:
        raise ConfigError(f"no request arrives at {config.requests_per_second:g}/s within {config.duration:g} s; raise one")
    return moments
