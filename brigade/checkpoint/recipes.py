"""Recipes: the sizes people talk about, one YAML each, buildable with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from brigade.config import ModelConfig, RopeConfig
from brigade.errors import CheckpointError, ConfigError

DTYPE = "bfloat16"  # of a recipe that names none: what such models are deployed in
FOLDER = Path(__file__).resolve().parent.parent / "recipes"
_NAMES = {field.name for field in dataclasses.fields(ModelConfig)} - {"family", "moe", "rope_local"}
_ROPE_NAMES = {field.name for field in dataclasses.fields(RopeConfig)}


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
    except OSError as error:
        raise CheckpointError(f"recipe {path} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"recipe {path} is not valid YAML ({' '.join(str(error).split())[:300]}); mend the file") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"recipe {path} holds no settings; it must be a mapping such as `num_layers: 24`")
    return _build(content, path)


def _build(content: dict[str, Any], path: Path) -> tuple[ModelConfig, str]:
    dtype = content.pop("dtype", DTYPE)
    if not isinstance(dtype, str):
        raise CheckpointError(f"recipe {path} sets dtype to {ascii(dtype)[:60]}; it must be a name such as bfloat16")
    try:
        rope = content.get("rope")
        if isinstance(rope, dict):
            content["rope"] = RopeConfig(**_known(rope, _ROPE_NAMES, f"recipe {path} has, under rope,"))
        return ModelConfig(family="recipe", **_known(content, _NAMES, f"recipe {path} has")), dtype
    except TypeError as error:
        raise CheckpointError(f"recipe {path} is incomplete: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from error


def _known(content: dict[Any, Any], names: set[str], where: str) -> dict[str, Any]:
    """Settings by known names; YAML's lists as tuples."""
    unknown = sorted(ascii(name)[:60] for name in content if name not in names)
    if unknown:
        raise CheckpointError(f"{where} unknown keys {', '.join(unknown)}; known: {', '.join(sorted(names))}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
