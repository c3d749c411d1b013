"""What a family is: a translation of its settings and a table of its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap
from brigade.config import ModelConfig


@dataclass(frozen=True)
class Family:
    name: str
    model_types: tuple[str, ...]
    translate: Callable[[Settings], ModelConfig]
    names: Callable[[ModelConfig], NameMap]
    prefix: str = "model."  # what `@` stands for
