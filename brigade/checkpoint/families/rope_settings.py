"""The settings of rotary positions, of every kind of length scaling; a key that nothing here follows is refused by name."""

from __future__ import annotations

import math
from typing import Any

from brigade.checkpoint.families.settings import Settings
from brigade.config import RopeConfig
from brigade.errors import CheckpointError
from brigade.model.elementary import log

COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
ORIGINAL = "original_max_position_embeddings"
KEYS = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}),
    "yarn": frozenset({"factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate", ORIGINAL}),
    "longrope": frozenset({"factor", "short_factor", "long_factor", "attention_factor", ORIGINAL}),
}


def read_rope(
    hf: Settings, head_dim: int, kind: str | None = None, theta: float = 10000.0, partial: float = 1.0
) -> RopeConfig:  # fmt: skip
    """`kind` picks one entry where a model has several ropes by layer type."""
    given, older = hf.group("rope_parameters", None), hf.group("rope_scaling", {})
    if given is not None and older and older != given:
        raise hf.refuse("rope_scaling", "left out, since rope_parameters are there and say something else")
    if given is not None and kind is not None and kind in given:
        given = Settings(given, hf.file).group(kind)
    if given is None:
        given = {"rope_theta": hf.number("rope_theta", theta, above=1), **older}
    share = hf.number("partial_rotary_factor", partial, above=0)
    return _read(Settings(given, f"{hf.file}, for rotary positions,"), hf, head_dim, theta, share)


def _read(given: Settings, hf: Settings, head_dim: int, theta: float, share: float) -> RopeConfig:
    scaling = given.word("rope_type", None) or given.word("type", "default")
    scaling = "longrope" if scaling == "su" else scaling
    if scaling not in KEYS:
        raise CheckpointError(
            f"rope scaling {scaling!r} is not supported; known: {', '.join(KEYS)}"
            + (" (dynamic scaling makes logits depend on the length of the text)" if scaling == "dynamic" else "")
        )
    unknown = sorted(given.given - COMMON - KEYS[scaling])
    if unknown:
        known = ", ".join(sorted(KEYS[scaling])) or "none"
        raise CheckpointError(
            f"rope scaling {scaling!r} has the setting {ascii(unknown[0])[:60]}, which is not supported with it; supported: {known}"
        )
    share = given.number("partial_rotary_factor", share, above=0)
    common: dict[str, Any] = {
        "theta": given.number("rope_theta", float(theta), above=1),
        "rotary_dim": int(head_dim * min(share, 1e6)),
    }
    if scaling == "default":
        return RopeConfig(**common)
    if scaling == "linear":
        return RopeConfig(**common, scaling="linear", factor=given.number("factor", above=0))
    longest = hf.count("max_position_embeddings", 0)
    original = given.count(ORIGINAL, None) or hf.count(ORIGINAL, None)
    if scaling != "llama3":  # whose frequencies would be others without it; it has no default
        original = original or longest
    if not original:
        raise CheckpointError(f"rope scaling {scaling!r} needs {ORIGINAL}; add it to config.json")
    common |= {"scaling": scaling, "original_positions": original}
    if scaling == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        return RopeConfig(**common, **{name: given.number(name, above=0) for name in names})
    if scaling == "yarn":
        return _yarn(given, common)
    return _longrope(given, common, longest)


def _yarn(given: Settings, common: dict[str, Any]) -> RopeConfig:
    factor = given.number("factor", above=0)

    def grown(by: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * by * log(factor) + 1.0

    by, by_all = given.number("mscale", 0.0), given.number("mscale_all_dim", 0.0)
    usual = grown(by) / grown(by_all) if by and by_all and grown(by_all) else grown(1.0)
    return RopeConfig(
        **common, factor=factor, beta_fast=given.number("beta_fast", 32.0, above=0),
        beta_slow=given.number("beta_slow", 1.0, above=0), truncate=given.flag("truncate", True),
        attention_factor=given.number("attention_factor", usual, above=0),
    )  # fmt: skip


def _longrope(given: Settings, common: dict[str, Any], longest: int) -> RopeConfig:
    original = common["original_positions"]
    factor = given.number("factor", longest / original, above=0)
    if factor > 1.0 and original < 2:
        raise given.refuse(ORIGINAL, "above 1")
    usual = 1.0 if factor <= 1.0 else math.sqrt(1.0 + log(factor) / log(original))
    return RopeConfig(
        **common, attention_factor=given.number("attention_factor", usual, above=0),
        short_factors=given.numbers("short_factor"), long_factors=given.numbers("long_factor"),
    )  # fmt: skip
