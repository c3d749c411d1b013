"""What a model is computed with: backend, dtype and quantisation, from what was asked and what its files allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from brigade.artifact.reader import DTYPES
from brigade.backends.base import Backend
from brigade.backends.registry import get_backend
from brigade.checkpoint.load import ModelSource, own_dtype
from brigade.errors import ConfigError


@dataclass(frozen=True)
class Choices:
    """As a caller gives them; `quant` None: as the files are."""

    dtype: str = "auto"
    backend: str = "auto"
    device: str = "cpu"
    exact: bool = True
    random_weights: int | None = None
    quant: str | None = None
    skip_layers: Iterable[str] = ()


def resolve_dtype(wanted: str, source: ModelSource) -> torch.dtype:
    name = wanted if wanted != "auto" else own_dtype(source)
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; it must be auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def settle(source: ModelSource, choices: Choices) -> tuple[Backend, torch.dtype]:
    """The backend, told how to hold matrices, and the dtype of everything else."""
    if source.artifact is not None:
        return _settle_artifact(source, choices)
    dtype, skip = resolve_dtype(choices.dtype, source), _names(choices.skip_layers)
    backend = get_backend(choices.backend, choices.device, choices.exact)
    if choices.quant in (None, "none"):
        if skip:
            raise ConfigError(f"skip_layers {','.join(skip)} has no effect without quant; drop it, or choose a quant")
        return backend, dtype
    if not hasattr(backend, "quantise"):
        raise ConfigError(f"quant is {choices.quant!r}, but the {backend.name} backend keeps weights whole; {_remedy(choices)}")
    backend.quantise(choices.quant, skip, source.config.num_layers)
    return backend, dtype


def _settle_artifact(source: ModelSource, choices: Choices) -> tuple[Backend, torch.dtype]:
    """An artifact was exported with all of these settled: what is asked again would have no effect, or contradict it."""
    assert source.artifact is not None
    for name, value, silent in (
        ("quant", choices.quant, None), ("skip_layers", _names(choices.skip_layers), []), ("dtype", choices.dtype, "auto"),
        ("random_weights", choices.random_weights, None),
    ):  # fmt: skip
        if value != silent:
            shown = ",".join(value) if isinstance(value, list) else value
            raise ConfigError(f"{name} is {shown}, but {source.name} is an artifact, which was exported with its own; drop {name}")
    backend = get_backend(choices.backend, choices.device, choices.exact)
    if backend.name != "cpu":
        raise ConfigError(
            f"backend is {backend.name!r}, but {source.name} is an artifact, packed for the kernels of the cpu backend; "
            f"{_remedy(choices)}"
        )
    manifest = source.artifact.manifest
    backend.quantise(manifest.quant, manifest.skip_layers, source.config.num_layers)
    source.artifact.check_numerics(backend.numerics_id)
    return backend, DTYPES[manifest.dtype]


def _remedy(choices: Choices) -> str:
    """Of somebody who wants the cpu backend and did not get it."""
    if choices.backend == "auto" and choices.device == "cpu" and choices.exact:
        return "install a C++ compiler and install brigade again"
    return "drop backend, device and exact"


def _names(skip_layers: Iterable[str]) -> list[str]:
    """A list of names, or one text with commas."""
    given = skip_layers.split(",") if isinstance(skip_layers, str) else [str(name) for name in skip_layers]
    if not all(name.strip() for name in given):
        raise ConfigError(f"skip_layers is {','.join(given)!r}, with an empty name; write names such as 0,3.down,head, or drop it")
    return given
