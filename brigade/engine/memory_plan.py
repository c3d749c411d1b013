"""Where the memory goes, before any of it is taken: weights, KV blocks, activations, and what is left."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from brigade.config import ModelConfig
from brigade.engine.config import EngineConfig
from brigade.errors import ConfigError

KV_SHARE = 0.5  # of what the weights leave, when nothing else is said


def readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@dataclass(frozen=True)
class MemoryPlan:
    """All sizes in bytes but where the name says otherwise."""

    available: int
    weights: int
    activations: int
    block_bytes: int
    block_size: int  # positions
    num_blocks: int
    max_model_len: int  # positions

    @property
    def kv(self) -> int:
        return self.block_bytes * self.num_blocks

    @property
    def left(self) -> int:
        return self.available - self.weights - self.activations - self.kv

    @property
    def positions(self) -> int:
        return self.num_blocks * self.block_size

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"kv": self.kv, "left": self.left, "positions": self.positions}

    def __str__(self) -> str:
        return (
            f"memory: {readable(self.available)} available = weights {readable(self.weights)}"
            f" + KV {readable(self.kv)} ({self.num_blocks} blocks of {self.block_size} = {self.positions} positions)"
            f" + activations {readable(self.activations)} + left {readable(self.left)};"
            f" requests up to {self.max_model_len} positions"
        )


def plan_memory(model: ModelConfig, engine: EngineConfig, weights: int, position_bytes: int, available: int) -> MemoryPlan:
    """`weights` is all their bytes, `position_bytes` those of one position in the cache of all layers that are here; `available` is
    what the device has free before loading."""
    limit = model_length(model, engine)
    activations = _activations(model, engine)
    block_bytes = position_bytes * engine.block_size
    room = available - weights - activations
    if room < block_bytes:
        raise ConfigError(
            f"the weights need {readable(weights)} and a step {readable(activations)}, but {readable(available)} are free; "
            "use a smaller model, lower max_step_tokens, or free memory"
        )
    if engine.kv_blocks is not None:
        blocks = engine.kv_blocks
    elif engine.kv_memory is not None:
        blocks = engine.kv_memory // block_bytes
        if blocks < 1:
            raise ConfigError(
                f"kv_memory is {readable(engine.kv_memory)}, below one block of {readable(block_bytes)}; raise it, "
                "or lower block_size"
            )
    else:
        most_useful = engine.max_batch_size * -(-limit // engine.block_size)
        blocks = max(1, min(most_useful, int(room * KV_SHARE) // block_bytes))
    if blocks * block_bytes > room:
        raise ConfigError(
            f"{blocks} KV blocks need {readable(blocks * block_bytes)}, but {readable(room)} are left beside weights and "
            "activations; lower kv_blocks or kv_memory"
        )
    return MemoryPlan(available, weights, activations, block_bytes, engine.block_size, blocks, limit)


def model_length(model: ModelConfig, engine: EngineConfig) -> int:
    wanted = engine.max_model_len
    if wanted is not None and wanted > model.max_positions:
        raise ConfigError(f"max_model_len is {wanted}, but the model was made for {model.max_positions} positions; lower it")
    return wanted or model.max_positions


def _activations(model: ModelConfig, engine: EngineConfig) -> int:
    """A generous estimate of one step in fp32: the widest rows alive at once, scores, and the sampled logits."""
    width = max(4 * model.ffn_size if model.gated else 3 * model.ffn_size, 6 * model.num_heads * model.head_dim)
    rows = engine.max_step_tokens * (width + 4 * model.hidden_size)
    scores = 3 * engine.max_step_tokens * model.num_heads * min(model_length(model, engine), 4096)
    return 4 * (rows + scores + 2 * engine.max_batch_size * model.vocab_size)
