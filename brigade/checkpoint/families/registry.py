"""Families by `model_type`: those that ship with Brigade, and those that callers register.

The arrows point one way: this file knows every family, a family knows only what a `Family` is.
"""

from __future__ import annotations

from brigade.checkpoint.families import gemma, gpt2, gpt_neox, llama, moe, opt, phi3
from brigade.checkpoint.families.family import Family
from brigade.errors import CheckpointError, ConfigError

_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """A door: from now on folders with one of these model types load. A type is taken once."""
    for model_type in family.model_types:
        if model_type in _FAMILIES:
            raise ConfigError(f"model type {model_type!r} belongs to family {_FAMILIES[model_type].name!r} already")
        _FAMILIES[model_type] = family


for module in (gemma, gpt2, gpt_neox, llama, moe, opt, phi3):
    for own in module.FAMILIES:
        register_family(own)


def family_names() -> list[str]:
    return sorted(_FAMILIES)


def find_family(model_type: object) -> Family:
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise CheckpointError(
            f"unknown model family {ascii(model_type)[:60]}; known: {', '.join(family_names())}. "
            "docs/add_a_model.md shows how to add one"
        )
    return _FAMILIES[model_type]
