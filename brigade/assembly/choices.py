"""What was asked of a model and its engine, and what is settled of it: backend, dtype and quantisation by what the files allow,
the engine's settings by what the engine takes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from brigade.artifact.reader import DTYPES
from brigade.backends.base import Backend
from brigade.backends.cpu.quant import Quant, skip_list
from brigade.backends.registry import get_backend
from brigade.checkpoint.hub import pinned
from brigade.checkpoint.load import ModelSource, own_dtype
from brigade.engine.config import EngineConfig
from brigade.errors import ConfigError, in_one_line
from brigade.mesh import Mesh
from brigade.parallel.cores import share_out
from brigade.parallel.degrees import make_mesh

ENGINE_KINDS = ("static", "dynamic")
DYNAMIC_ONLY = ("prefix_cache",)


@dataclass(frozen=True)
class Choices:
    """As a caller gives them. `model`: a folder, an artifact, a recipe, a name of the hub, or None for the embedded model; `quant`
    None: as the files are; `engine_settings` are fields of `EngineConfig`. `tp` x `pp` ranks hold the model together; `pp_layers`
    cuts it into stages by hand, `exchange` says how ranks talk, `rank_timeout` how many seconds none of them may stand still, and
    `import_modules` are imported by each, so that a backend or family of one's own is known there."""

    model: str | Path | None = None
    dtype: str = "auto"
    backend: str = "auto"
    device: str = "cpu"
    exact: bool = True
    random_weights: int | None = None
    quant: str | None = None
    skip_layers: Iterable[str] = ()
    numerics: str | None = None
    threads: int | None = None
    cpus: str | None = None
    engine: str = "dynamic"
    engine_settings: Mapping[str, Any] = field(default_factory=dict)
    tp: int = 1
    pp: int = 1
    pp_layers: Sequence[int] | None = None
    exchange: str = "auto"
    rank_timeout: float = 60.0
    import_modules: Sequence[str] = ()

    def encode(self) -> bytes:
        """For the other ranks, which settle the same choices."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain |= {"model": None if self.model is None else str(self.model), "skip_layers": _names(self.skip_layers)}
        return msgspec.json.encode(plain)

    def pinned(self) -> Choices:
        """The same for other ranks, which open the same commit of a model of the hub, wherever its branch is by then."""
        return replace(self, model=pinned(self.model))

    @classmethod
    def decode(cls, data: bytes) -> Choices:
        return cls(**msgspec.json.decode(data))


def resolve_dtype(wanted: str, source: ModelSource) -> torch.dtype:
    name = wanted if wanted != "auto" else own_dtype(source)
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; it must be auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def quantisation(choices: Choices, num_layers: int) -> Quant:
    """How matrices are to be held, for whoever quantises without a backend."""
    return Quant(choices.quant or "none", skip_list(_names(choices.skip_layers), num_layers))


def settle(source: ModelSource, choices: Choices) -> tuple[Backend, torch.dtype]:
    """The backend, told how to hold matrices, and the dtype of everything else."""
    if source.artifact is not None:
        return _settle_artifact(source, choices)
    dtype, skip = resolve_dtype(choices.dtype, source), _names(choices.skip_layers)
    backend = get_backend(choices.backend, choices.device, choices.exact, choices.numerics)
    if choices.quant in (None, "none"):
        if skip:
            raise ConfigError(f"skip_layers {','.join(skip)} has no effect without quant; drop it, or choose a quant")
        backend.hold(dtype)
        return backend, dtype
    if not backend.quantises:
        raise ConfigError(f"quant is {choices.quant!r}, but the {backend.name} backend keeps weights whole; {_remedy(choices)}")
    backend.quantise(choices.quant, skip, source.config.num_layers)
    backend.hold(dtype)
    return backend, dtype


def settle_mesh(source: ModelSource, choices: Choices) -> Mesh:
    """The layout, or which degrees this model can have."""
    if choices.pp_layers is not None and choices.pp == 1:
        raise ConfigError(f"pp_layers is {choices.pp_layers}, but pp is 1; give pp, or drop pp_layers")
    mesh = make_mesh(source.config, choices.tp, choices.pp, choices.pp_layers)
    if not (isinstance(choices.rank_timeout, (int, float)) and choices.rank_timeout > 0):
        raise ConfigError(f"rank_timeout is {choices.rank_timeout!r}; it must be a number of seconds above 0")
    if mesh.world == 1:
        for name, value, silent in (("exchange", choices.exchange, "auto"), ("rank_timeout", choices.rank_timeout, 60.0)):
            if value != silent:
                raise ConfigError(f"{name} is {value}, but there is one rank, so it has no effect; give tp or pp, or drop {name}")
    return mesh


def share_processors(backend: Backend, choices: Choices, ranks: int, place: int) -> None:
    """Threads of this rank, at `place` among those of this machine."""
    if ranks == 1:
        return backend.use(choices.threads, choices.cpus)
    own = share_out(ranks, choices.threads, choices.cpus)[place]
    backend.use(None if own.cpus else own.threads, own.cpus)


def own_device(device: str, place: int) -> str:
    """Of a rank at `place` among those of its machine: `cuda` means one GPU after the other."""
    if device != "cuda" or not torch.cuda.is_available():
        return device
    return f"cuda:{place % torch.cuda.device_count()}"


def import_all(modules: Sequence[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--import {name}: {error}; name a module that Python finds, or set PYTHONPATH") from error
        except Exception as error:
            raise ConfigError(f"--import {name} failed ({in_one_line(error)}); mend the module") from error


def settle_engine(kind: str, settings: Mapping[str, Any]) -> EngineConfig:
    """The engine's settings, or which of them it does not take."""
    if kind not in ENGINE_KINDS:
        raise ConfigError(f"engine is {kind!r}; it must be one of {', '.join(ENGINE_KINDS)}")
    if kind == "static":
        useless = [name for name in DYNAMIC_ONLY if name in settings]
        if useless:
            raise ConfigError(f"{useless[0]} has no effect on the static engine; drop it, or use the dynamic engine")
    unknown = sorted(set(settings) - set(EngineConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(EngineConfig.__dataclass_fields__)
        raise ConfigError(f"unknown setting {', '.join(unknown)}; engine settings are {known}")
    return EngineConfig(**settings)


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
    backend = get_backend(choices.backend, choices.device, choices.exact, choices.numerics)
    if backend.name != "cpu":
        raise ConfigError(
            f"backend is {backend.name!r}, but {source.name} is an artifact, packed for the kernels of the cpu backend; "
            f"{_remedy(choices)}"
        )
    manifest = source.artifact.manifest
    backend.quantise(manifest.quant, manifest.skip_layers, source.config.num_layers)
    backend.hold(DTYPES[manifest.dtype])
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
