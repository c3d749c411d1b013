"""What a network is, in numbers: frozen, validated once, and understood by every room above.

A family's adapter translates a foreign `config.json` into a `ModelConfig`; nothing else reads foreign names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from brigade.errors import ConfigError

NormKind = Literal["rmsnorm", "layernorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
QKNorm = Literal["none", "head", "full"]
PositionKind = Literal["rope", "learned", "none"]
RopeScaling = Literal["none", "linear", "llama3", "yarn", "longrope"]

MOST_LAYERS = MOST_EXPERTS = 1024  # beyond any model, and few enough to build in a moment
MOST = 1 << 24  # of any other size: products of them must be numbers that tensors can have


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_count(name: str, value: Any, most: int = MOST, least: int = 1) -> None:
    fits = type(value) is int and least <= value <= most
    _check(fits, f"{name} is {_shown(value)}; it must be an integer from {least} to {most}")


def _check_number(name: str, value: Any, above: float = -math.inf) -> None:
    fits = type(value) in (int, float) and above < value < math.inf and abs(value) < 1e300
    _check(fits, f"{name} is {_shown(value)}; it must be a number" + ("" if above == -math.inf else f" above {above:g}"))


def _check_choice(name: str, value: Any, choices: Any) -> None:
    known = get_args(choices)
    _check(isinstance(value, str) and value in known, f"{name} is {_shown(value)}; it must be one of {', '.join(known)}")


def _check_flags(owner: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(owner, name)
        _check(isinstance(value, bool), f"{name} is {_shown(value)}; it must be true or false")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions. `rotary_dim` of each head's channels are rotated, the rest pass through.

    `longrope` has two sets of factors. A model takes the long ones if it is loaded for more positions than it was first trained
    with, else the short ones, and never changes: a choice by the running length would let the end of a text change its beginning.
    """

    theta: float = 10000.0
    rotary_dim: int = 64
    interleaved: bool = False  # pairs (0, 1), (2, 3) ... instead of the two halves
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    original_positions: int = 0  # llama3, yarn, longrope
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: whole channels
    attention_factor: float = 1.0  # multiplies cos and sin (yarn, longrope)
    short_factors: tuple[float, ...] = ()  # longrope: one divisor for each frequency
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_number("rope theta", self.theta)
        _check(self.theta > 1, f"rope theta is {self.theta}; it must be above 1")
        _check(
            type(self.rotary_dim) is int and 0 < self.rotary_dim <= MOST and self.rotary_dim % 2 == 0,
            f"rotary dimension is {_shown(self.rotary_dim)}; it must be even and above 0",
        )
        _check_flags(self, ("interleaved", "truncate"))
        _check_choice("rope scaling", self.scaling, RopeScaling)
        for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor"):
            _check_number(f"rope {name}", getattr(self, name), above=0)
        _check_count("rope original_positions", self.original_positions, least=int(self.scaling in ("llama3", "yarn", "longrope")))
        _check(
            self.low_freq_factor != self.high_freq_factor,
            f"rope low_freq_factor and high_freq_factor are both {self.low_freq_factor}; they must differ",
        )
        for name in ("short_factors", "long_factors"):
            factors, wanted = getattr(self, name), self.rotary_dim // 2 if self.scaling == "longrope" else 0
            _check(isinstance(factors, tuple), f"rope {name} is {_shown(factors)}; it must be a list of numbers")
            _check(len(factors) == wanted, f"rope {name} has {len(factors)} numbers; {wanted} are needed")
            for factor in factors:
                _check_number(f"rope {name}", factor, above=0)

    def is_long(self, length: int) -> bool:
        """Whether a model loaded for this many positions takes the long factors."""
        return length > self.original_positions

    def variant(self, length: int) -> str:
        """What the length decides of the numbers; empty where it decides nothing."""
        if self.scaling != "longrope" or self.short_factors == self.long_factors:
            return ""
        return "longrope-long" if self.is_long(length) else "longrope-short"


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
        _check_count("num_experts", self.num_experts, most=MOST_EXPERTS)
        _check(
            type(self.top_k) is int and 1 <= self.top_k <= self.num_experts,
            f"top_k is {_shown(self.top_k)} experts a token; the model has {self.num_experts}: choose 1 to {self.num_experts}",
        )
        _check_count("expert ffn size", self.expert_ffn_size)
        _check_count("shared_ffn_size", self.shared_ffn_size, least=0)
        _check_flags(self, ("renormalise",))


SIZES = ("vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ffn_size", "max_positions")
FLAGS = (
    "gated", "qkv_bias", "out_bias", "mlp_bias", "head_bias", "tied_head", "parallel_residual", "norm_after", "sandwich_norm",
    "final_norm",
)  # fmt: skip
POSITIVE = ("qkv_clip", "attention_scale", "attention_softcap", "logit_softcap", "embedding_scale")  # or None


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
        self._check_values()
        _check(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly; "
            "num_heads must be a multiple of num_kv_heads",
        )
        _check(
            (self.position == "rope") == (self.rope is not None),
            f"position is {self.position!r} but rope settings are {'given' if self.rope else 'missing'}",
        )
        for rope in (self.rope, self.rope_local):
            _check(
                rope is None or rope.rotary_dim <= self.head_dim,
                f"rotary dimension {rope and rope.rotary_dim} exceeds the head dimension {self.head_dim}",
            )
        _check(
            not (self.norm_after and (self.parallel_residual or self.sandwich_norm)),
            "norm_after cannot be combined with parallel_residual or sandwich_norm",
        )
        for name, layers in (("windowed_layers", self.windowed_layers), ("moe.layers", self.moe.layers if self.moe else ())):
            _check(
                isinstance(layers, tuple) and all(type(i) is int for i in layers),
                f"{name} is {_shown(layers)}; it must be a list of layer numbers",
            )
            wrong = [i for i in layers if not 0 <= i < self.num_layers]
            _check(not wrong, f"{name} names layer {wrong[0] if wrong else ''}; the model has layers 0 to {self.num_layers - 1}")

    def _check_values(self) -> None:
        """Every field alone: what it is, and that it can be."""
        _check(isinstance(self.family, str), f"family is {_shown(self.family)}; it must be a name")
        for name in SIZES:
            _check_count(name, getattr(self, name), MOST_LAYERS if name == "num_layers" else MOST)
        for name, choices in (("norm", NormKind), ("activation", Activation), ("position", PositionKind), ("qk_norm", QKNorm)):
            _check_choice(name, getattr(self, name), choices)
        _check_flags(self, FLAGS)
        _check_number("norm_eps", self.norm_eps)
        _check(self.norm_eps >= 0, f"norm_eps is {self.norm_eps}; it must be at least 0")
        _check_number("norm_weight_offset", self.norm_weight_offset)
        _check_count("position_offset", self.position_offset, least=0)
        for name in POSITIVE:
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), above=0)
        if self.sliding_window is not None:
            _check_count("sliding window", self.sliding_window, most=(1 << 31) - 1)
        if self.embedding_size is not None:
            _check_count("embedding_size", self.embedding_size)
        for name, kind in (("rope", RopeConfig), ("rope_local", RopeConfig), ("moe", MoEConfig)):
            value = getattr(self, name)
            _check(value is None or isinstance(value, kind), f"{name} is {_shown(value)}; it must be a group of settings")

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

    def variant(self, length: int) -> str:
        """What the length that the model is loaded for decides of its numbers; empty where it decides nothing."""
        ropes = [rope for rope in (self.rope, self.rope_local) if rope is not None]
        return "+".join(dict.fromkeys(rope.variant(length) for rope in ropes if rope.variant(length)))

    def is_moe(self, layer: int) -> bool:
        return self.moe is not None and (not self.moe.layers or layer in self.moe.layers)
