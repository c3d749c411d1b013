"""What a network is, in numbers: frozen, validated once, and understood by every room above.

A family's adapter translates a foreign `config.json` into a `ModelConfig`; nothing else reads foreign names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from brigade.errors import ConfigError

NormKind = Literal["rmsnorm", "layernorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
QKNorm = Literal["none", "head", "full"]
PositionKind = Literal["rope", "learned", "none"]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions. `rotary_dim` of each head's channels are rotated, the rest pass through."""

    theta: float = 10000.0
    rotary_dim: int = 64
    interleaved: bool = False  # pairs (0, 1), (2, 3) ... instead of the two halves
    scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    original_positions: int = 0  # llama3, yarn, longrope
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # multiplies cos and sin (yarn, longrope)
    channel_factors: tuple[float, ...] = ()  # longrope: one divisor for each frequency

    def __post_init__(self) -> None:
        _check(self.theta > 0, f"rope theta is {self.theta}; it must be above 0")
        _check(
            self.rotary_dim > 0 and self.rotary_dim % 2 == 0,
            f"rotary dimension is {self.rotary_dim}; it must be even and above 0",
        )


@dataclass(frozen=True)
class MoEConfig:
    """Routed experts. `layers` names the layers that have them; empty means every layer."""

    num_experts: int
    top_k: int
    expert_ffn_size: int
    renormalise: bool = True  # divide the k chosen weights by their sum
    shared_ffn_size: int = 0
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(
            1 <= self.top_k <= self.num_experts,
            f"top_k is {self.top_k} experts a token; the model has {self.num_experts}: choose 1 to {self.num_experts}",
        )
        _check(self.expert_ffn_size > 0, f"expert ffn size is {self.expert_ffn_size}; it must be above 0")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, whole. Sizes first, then the choices a spec turns into modules."""

    family: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    max_positions: int

    norm: NormKind = "rmsnorm"
    norm_eps: float = 1e-5
    norm_weight_offset: float = 0.0  # 1.0 where the effective weight is 1 + w
    activation: Activation = "silu"
    gated: bool = True  # act(gate) * up instead of act(up)
    position: PositionKind = "rope"
    position_offset: int = 0  # first row used of a learned position table
    rope: RopeConfig | None = field(default=None)
    rope_local: RopeConfig | None = None  # for sliding-window layers, where it differs
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tied_head: bool = False
    parallel_residual: bool = False  # attention and MLP both read the layer's input
    norm_after: bool = False  # post-norm: the norm follows the residual sum
    sandwich_norm: bool = False  # a second norm on each sublayer's output, before the residual sum
    final_norm: bool = True
    qk_norm: QKNorm = "none"
    qkv_clip: float | None = None
    sliding_window: int | None = None
    windowed_layers: tuple[int, ...] = ()  # which layers slide; empty with a window set means all of them
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float | None = None
    embedding_size: int | None = None  # word vectors narrower than the model, projected in and out
    moe: MoEConfig | None = None

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ffn_size",
            "max_positions",
        ):  # fmt: skip
            value = getattr(self, name)
            _check(isinstance(value, int) and value > 0, f"{name} is {value!r}; it must be an integer above 0")
        _check(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly; "
            "num_heads must be a multiple of num_kv_heads",
        )
        _check(
            (self.position == "rope") == (self.rope is not None),
            f"position is {self.position!r} but rope settings are {'given' if self.rope else 'missing'}",
        )
        if self.rope is not None:
            _check(
                self.rope.rotary_dim <= self.head_dim,
                f"rotary dimension {self.rope.rotary_dim} exceeds the head dimension {self.head_dim}",
            )
        _check(
            self.sliding_window is None or self.sliding_window > 0,
            f"sliding window is {self.sliding_window}; it must be above 0",
        )
        _check(
            not (self.norm_after and (self.parallel_residual or self.sandwich_norm)),
            "norm_after cannot be combined with parallel_residual or sandwich_norm",
        )
        for name, layers in (("windowed_layers", self.windowed_layers), ("moe.layers", self.moe.layers if self.moe else ())):
            _check(
                all(0 <= i < self.num_layers for i in layers),
                f"{name} names layer {max(layers, default=0)}; the model has layers 0 to {self.num_layers - 1}",
            )

    @property
    def heads_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def window(self, layer: int) -> int | None:
        """The sliding window of one layer, or None where it sees everything."""
        slides = not self.windowed_layers or layer in self.windowed_layers
        return self.sliding_window if slides else None

    def layer_rope(self, layer: int) -> RopeConfig | None:
        return self.rope_local if self.rope_local is not None and self.window(layer) is not None else self.rope

    def is_moe(self, layer: int) -> bool:
        return self.moe is not None and (not self.moe.layers or layer in self.moe.layers)
