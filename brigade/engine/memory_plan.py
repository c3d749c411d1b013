"""Where the memory of a rank goes, before any of it is taken: weights, KV blocks, what a step needs, and what is left."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from brigade.config import ModelConfig
from brigade.engine.config import EngineConfig
from brigade.engine.request import longest_request
from brigade.errors import ConfigError

KV_SHARE = 0.5  # of what the weights leave, when nothing else is said


def readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@dataclass(frozen=True)
class Needs:
    """What a rank takes, in bytes. Python and its libraries, which take some 150 MB of their own, are not counted."""

    weights: int
    tables: int  # rotary angles of every position
    activations: int  # of the largest step
    shared: int  # with other ranks of its machine, to talk
    position_bytes: int  # one position in the cache of all layers that are here

    @property
    def beside_cache(self) -> int:
        return self.weights + self.tables + self.activations + self.shared


@dataclass(frozen=True)
class MemoryPlan:
    """All sizes in bytes but where the name says otherwise."""

    available: int
    weights: int
    tables: int
    activations: int
    shared: int
    block_bytes: int
    block_size: int  # positions
    num_blocks: int
    max_model_len: int  # positions

    @property
    def kv(self) -> int:
        return self.block_bytes * self.num_blocks

    @property
    def room(self) -> int:
        """For a cache."""
        return self.available - self.weights - self.tables - self.activations - self.shared

    @property
    def left(self) -> int:
        return self.room - self.kv

    @property
    def positions(self) -> int:
        return self.num_blocks * self.block_size

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"kv": self.kv, "left": self.left, "positions": self.positions}

    def __str__(self) -> str:
        blocks = "1 block" if self.num_blocks == 1 else f"{self.num_blocks} blocks"
        some = {"rotary tables": self.tables, "memory shared by ranks": self.shared}
        return (
            f"memory: {readable(self.available)} available = weights {readable(self.weights)}"
            f" + KV {readable(self.kv)} ({blocks} of {self.block_size} = {self.positions} positions)"
            f" + activations {readable(self.activations)}"
            + "".join(f" + {name} {readable(size)}" for name, size in some.items() if size)
            + f" + left {readable(self.left)}; requests up to {longest_request(self.max_model_len, self.positions)} positions"
        )


def plan_memory(model: ModelConfig, engine: EngineConfig, needs: Needs, available: int) -> MemoryPlan:
    """`available` is what the device has free before loading."""
    block_bytes = needs.position_bytes * engine.block_size
    room = available - needs.beside_cache
    if room < block_bytes:
        raise ConfigError(
            f"the weights need {readable(needs.weights)}, a step {readable(needs.activations)} and tables and ranks "
            f"{readable(needs.tables + needs.shared)}, but {readable(available)} are free; use a smaller model, lower "
            "max_step_tokens or max_model_len, or free memory"
        )
    blocks = wanted_blocks(model, engine, block_bytes)
    if engine.kv_blocks is None and engine.kv_memory is None:
        blocks = max(1, min(blocks, int(room * KV_SHARE) // block_bytes))
    if blocks * block_bytes > room:
        raise ConfigError(
            f"{blocks} KV blocks need {readable(blocks * block_bytes)}, but {readable(room)} are left beside weights and "
            "activations; lower kv_blocks or kv_memory"
        )
    return MemoryPlan(
        available, needs.weights, needs.tables, needs.activations, needs.shared, block_bytes, engine.block_size, blocks,
        model_length(model, engine),
    )  # fmt: skip


def wanted_blocks(model: ModelConfig, engine: EngineConfig, block_bytes: int) -> int:
    """As many blocks as were asked for, or else as the largest batch of the longest requests can use."""
    if engine.kv_blocks is not None:
        return engine.kv_blocks
    if engine.kv_memory is None:
        return engine.max_batch_size * -(-model_length(model, engine) // engine.block_size)
    blocks = engine.kv_memory // block_bytes
    if blocks < 1:
        raise ConfigError(
            f"kv_memory is {readable(engine.kv_memory)}, below one block of {readable(block_bytes)}; raise it, or lower block_size"
        )
    return blocks


def model_length(model: ModelConfig, engine: EngineConfig) -> int:
    wanted = engine.max_model_len
    if wanted is not None and wanted > model.max_positions:
        raise ConfigError(f"max_model_len is {wanted}, but the model was made for {model.max_positions} positions; lower it")
    return wanted or model.max_positions
