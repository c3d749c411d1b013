"""Families by `model_type`. A new one is a translation of its settings and a table of its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.sources import NameMap
from brigade.config import ModelConfig
from brigade.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Family:
    name: str
    model_types: tuple[str, ...]
    translate: Callable[[Settings], ModelConfig]
    names: Callable[[ModelConfig], NameMap]
    prefix: str = "model."  # what `@` stands for


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """A door: from now on folders with one of these model types load. A type is taken once."""
    for model_type in family.model_types:
        if model_type in _FAMILIES:
            raise ConfigError(f"model type {model_type!r} belongs to family {_FAMILIES[model_type].name!r} already")
        _FAMILIES[model_type] = family


def _load_own() -> None:
    from brigade.checkpoint.families import gemma, gpt2, gpt_neox, llama, moe, opt, phi3  # noqa: F401


def family_names() -> list[str]:
    _load_own()
    return sorted(_FAMILIES)


def find_family(model_type: str | None) -> Family:
    _load_own()
    if model_type not in _FAMILIES:
        raise CheckpointError(
            f"unknown model family {model_type!r}; known: {', '.join(family_names())}. docs/add_a_model.md shows how to add one"
        )
    return _FAMILIES[model_type]
