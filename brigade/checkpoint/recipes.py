"""Recipes: the sizes people talk about, one YAML each, buildable with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from brigade.config import ModelConfig, RopeConfig
from brigade.errors import CheckpointError

DTYPE = "bfloat16"  # of a recipe that names none: what such models are deployed in
FOLDER = Path(__file__).resolve().parent.parent / "recipes"
_NAMES = {field.name for field in dataclasses.fields(ModelConfig)} - {"family", "moe", "rope_local"}


def recipe_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(source: str) -> Path | None:
    """`gpt-345m`, `345m`, or the path of a YAML file."""
    if source.endswith((".yaml", ".yml")):
        return Path(source)
    for name in (source.lower(), f"gpt-{source.lower()}"):
        if name in recipe_names():
            return FOLDER / f"{name}.yaml"
    return None


def read_recipe(path: Path) -> tuple[ModelConfig, str]:
    """The network and the dtype its weights are made for."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"recipe {path} does not exist; known names: {', '.join(recipe_names())}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"recipe {path} is not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"recipe {path} holds no settings; it must be a mapping such as `num_layers: 24`")
    return _build(content, path)


def _build(content: dict[str, Any], path: Path) -> tuple[ModelConfig, str]:
    dtype = content.pop("dtype", DTYPE)
    unknown = sorted(set(content) - _NAMES)
    if unknown:
        raise CheckpointError(f"recipe {path} has unknown keys {unknown}; known: {', '.join(sorted(_NAMES))}, dtype")
    if isinstance(content.get("rope"), dict):
        content["rope"] = RopeConfig(**content["rope"])
    try:
        return ModelConfig(family="recipe", **content), dtype
    except TypeError as error:
        raise CheckpointError(f"recipe {path} is incomplete: {error}") from error
