"""The model that is run, and the ranks that hold it: loaded once for all runs of one layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from brigade.api.llm import LLM
from brigade.errors import ConfigError, EngineStopped, RankFailed
from brigade.verify.digests import DigestingSampler
from brigade.verify.layout import Layout
from brigade.verify.run import Run


@dataclass(frozen=True)
class ModelChoice:
    """What is loaded, as `LLM` takes it."""

    model: str | None = None
    random_weights: int | None = None
    dtype: str = "auto"
    quant: str | None = None
    skip_layers: tuple[str, ...] = ()
    backend: str = "auto"
    device: str = "cpu"
    numerics: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True)
class RankOptions:
    """How ranks are run, which decides nothing of what they say. `import_modules` are imported on one rank too."""

    exchange: str | None = None
    rank_timeout: float | None = None
    import_modules: tuple[str, ...] = ()

    def arguments(self, layout: Layout) -> dict[str, Any]:
        """Of `LLM`: what has an effect on this layout."""
        given = {"exchange": self.exchange, "rank_timeout": self.rank_timeout} if layout.ranks > 1 else {}
        imported = {"import_modules": self.import_modules} if self.import_modules else {}
        return {name: value for name, value in given.items() if value is not None} | imported

    def check_effect(self, runs: Iterable[Run]) -> None:
        if all(run.layout.ranks == 1 for run in runs):  # of each replica
            for name in ("exchange", "rank_timeout"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} is {getattr(self, name)}, but no run has more than one rank; drop {name}")


@dataclass(frozen=True)
class Loaded:
    llm: LLM
    sampler: DigestingSampler


def open_llm(chosen: ModelChoice, layout: Layout, threads: int | None, options: RankOptions) -> Loaded:
    """The engine of the `LLM` itself computes nothing here, so one block of cache is enough for it."""
    sampler = DigestingSampler()
    length = {} if chosen.max_model_len is None else {"max_model_len": chosen.max_model_len}
    llm = LLM(
        chosen.model, dtype=chosen.dtype, backend=chosen.backend, device=chosen.device, random_weights=chosen.random_weights,
        quant=chosen.quant, skip_layers=chosen.skip_layers, numerics=chosen.numerics, threads=threads, sampler=sampler, kv_blocks=1,
        **length, **layout.arguments(), **options.arguments(layout),
    )  # fmt: skip
    return Loaded(llm, sampler)


NO_OPTIONS = RankOptions()


class Models:
    """Holds one model at a time. Runs that follow each other on one layout share it; another layout closes it first."""

    def __init__(self, chosen: ModelChoice, options: RankOptions = NO_OPTIONS) -> None:
        self.chosen, self.options = chosen, options
        self._key: tuple[Any, ...] | None = None
        self._loaded: Loaded | None = None
        self._threads: int | None = None  # of this process before a run asked for a number of its own

    def get(self, run: Run) -> Loaded:
        own = {name: getattr(run, name) for name in ("backend", "device") if getattr(run, name) is not None}
        chosen = replace(self.chosen, **own)
        alone = run.layout.ranks == 1
        key = (chosen, run.layout, None if alone else run.threads)  # one rank changes its threads as it stands
        if self._loaded is None or key != self._key:
            self.close()
            self._loaded, self._key = open_llm(chosen, run.layout, key[2], self.options), key
        if alone:
            self._use(run.threads)
        return self._loaded

    def _use(self, threads: int | None) -> None:
        """So many threads, or as many as there were."""
        assert self._loaded is not None
        backend = self._loaded.llm.backend
        if threads is not None and self._threads is None:
            self._threads = backend.threads
        if (threads or self._threads) is not None:
            backend.use(threads or self._threads, None)

    def after(self, error: Exception) -> None:
        """A run failed. What stopped for good, such as ranks of which one died, is not used again."""
        if isinstance(error, EngineStopped | RankFailed):
            self.close()

    def close(self) -> None:
        if self._loaded is not None:
            self._use(None)
            self._loaded.llm.close()
        self._loaded = self._key = self._threads = None

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
