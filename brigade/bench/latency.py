"""How long a batch takes from its submission to its end: the first token apart from those after it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from brigade.bench.gauge import Reading
from brigade.bench.others import Others
from brigade.bench.report import percentile
from brigade.engine.engine import Engine
from brigade.engine.sampling.params import SamplingParams
from brigade.errors import ConfigError

Clock = Callable[[], float]


@dataclass(frozen=True)
class LatencyConfig:
    prompt_length: int = 128
    output_length: int = 8
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    repeats: int = 3
    warmup: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"prompt_length": 1, "output_length": 1, "repeats": 1, "warmup": 0, "seed": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be {lowest} or more")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"batch-sizes is {list(self.batch_sizes)}; give one or more, each 1 or more")
        twice = next((size for size in self.batch_sizes if self.batch_sizes.count(size) > 1), None)
        if twice is not None:
            raise ConfigError(f"batch-sizes names {twice} twice; --repeats measures a size more often")

    @property
    def positions(self) -> int:
        """Of one request, prompt and output."""
        return self.prompt_length + self.output_length


@dataclass(frozen=True)
class Sample:
    """One repetition in seconds: until every request had its first token, and each step after that."""

    first: float
    steps: tuple[float, ...]
    total: float


@dataclass(frozen=True)
class Spread:
    """The same thing measured several times."""

    median: float
    low: float
    high: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(percentile(values, 50), min(values), max(values), percentile(values, 90), percentile(values, 99))


@dataclass(frozen=True)
class Latency:
    """All repetitions of one batch size, and what was read of the machine beside each: the better of before and after it. `others`:
    the share of the machine that other processes took meanwhile, where it is known."""

    batch: int
    samples: tuple[Sample, ...]
    readings: tuple[Reading, ...] = ()
    others: float | None = None

    def against(self, factor: float) -> Latency:
        """The same beside a machine whose arithmetic is so many times as fast as was read of it."""
        return replace(self, readings=tuple(reading.times(factor) for reading in self.readings))

    @property
    def total(self) -> Spread:
        return Spread.of([sample.total for sample in self.samples])

    @property
    def first(self) -> Spread:
        return Spread.of([sample.first for sample in self.samples])

    @property
    def per_token(self) -> Spread | None:
        """Over the single steps of all repetitions; None where the first token is the last."""
        steps = [step for sample in self.samples for step in sample.steps]
        return Spread.of(steps) if steps else None


def make_prompts(config: LatencyConfig, vocab_size: int, batch: int, number: int) -> list[list[int]]:
    """New ids for each repetition, so that no cache of prefixes knows them; no id comes twice in a prompt if it can be helped."""
    generator = random.Random(f"{config.seed}/{batch}/{number}")
    if vocab_size < config.prompt_length:
        return [[generator.randrange(vocab_size) for _ in range(config.prompt_length)] for _ in range(batch)]
    return [generator.sample(range(vocab_size), config.prompt_length) for _ in range(batch)]


def run_batch(engine: Engine, prompts: Sequence[Sequence[int]], output_length: int, clock: Clock = time.perf_counter) -> Sample:
    """Submit all at once and step to the end. The clock runs from before the submission. A token's time is that in which every
    request has got one more: one step, or where stages work on parts of the batch as many as there are stages."""
    params = SamplingParams(max_tokens=output_length, temperature=0.0, ignore_eos=True)
    begun = last = clock()
    names = [engine.submit(prompt, params) for prompt in prompts]
    given, everyone, first, steps = Counter(dict.fromkeys(names, 0)), 0, None, []
    while engine.has_work:
        given.update(delta.request_id for delta in engine.step() if delta.token_ids)
        now = clock()
        if min(given.values()) == everyone:
            continue
        everyone += 1
        if first is None:
            first = now - begun
        else:
            steps.append(now - last)
        last = now
    assert first is not None
    for name in names:
        length = len(engine.take_output(name).token_ids)
        assert length == output_length, f"{length} tokens instead of {output_length}"
    return Sample(first, tuple(steps), last - begun)


def measure_latency(
    engine: Engine, config: LatencyConfig, vocab_size: int, progress: Callable[[int, int], None] | None = None,
    gauge: Callable[[], Reading] | None = None, is_alone: bool = True,
) -> list[Latency]:  # fmt: skip
    """`gauge` reads the machine before and after each repetition. `is_alone`: all that is computed is computed by this process, so
    that what others took of the machine can be told."""
    rounds = config.warmup + config.repeats
    found = []
    for place, batch in enumerate(config.batch_sizes):
        samples, readings, others = [], [], Others()
        for number in range(rounds):
            if number == config.warmup:
                others = Others()
            if gauge is not None and number == config.warmup:
                readings.append(gauge())
            samples.append(run_batch(engine, make_prompts(config, vocab_size, batch, number), config.output_length))
            if gauge is not None and number >= config.warmup:
                readings.append(gauge())
            if progress is not None:
                progress(place * rounds + number + 1, len(config.batch_sizes) * rounds)
        share, better = others.share() if is_alone else None, tuple(map(Reading.better, readings, readings[1:]))
        found.append(Latency(batch, tuple(samples[config.warmup :]), better, share))
    return found


def check_room(config: LatencyConfig, engine: Engine) -> None:
    """A batch that had to wait for a slot or for blocks would be another measurement."""
    most = max(config.batch_sizes)
    if most > engine.config.max_batch_size:
        raise ConfigError(
            f"max_batch_size is {engine.config.max_batch_size}, below the batch size {most}; raise it or lower the other"
        )
    if config.positions > engine.limit:
        raise ConfigError(
            f"prompt and output have {config.positions} positions, but the engine was made for {engine.limit}; "
            "raise max_model_len or lower the others"
        )
    blocks = most * engine.pool.blocks_for(config.positions - 1)
    if blocks > engine.pool.num_blocks:
        raise ConfigError(
            f"the batch size {most} needs {blocks} KV blocks of {engine.pool.block_size} positions; the cache has "
            f"{engine.pool.num_blocks}: raise kv_memory or kv_blocks, or lower the batch size"
        )
