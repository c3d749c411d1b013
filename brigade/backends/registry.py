"""Backends by name; a backend of your own is one call of `register_backend`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from brigade.backends.base import Backend
from brigade.errors import ConfigError


def _reference(**settings: Any) -> Backend:
    from brigade.backends.reference import ReferenceBackend

    return ReferenceBackend(**settings)


def _cpu(**settings: Any) -> Backend:
    from brigade.backends.cpu import CpuBackend

    return CpuBackend(**settings)


_BACKENDS: dict[str, Callable[..., Backend]] = {"reference": _reference, "cpu": _cpu}
_said: set[str] = set()


def best_backend(device: str = "cpu", exact: bool = True) -> str:
    """The native kernels where they are built and asked for what they do, else the reference; said once if they are missing.
    `exact` off is for the reference alone: who asks for it must name that slower backend, and does not get it unawares."""
    from brigade.backends.cpu.library import find_kernels

    if device != "cpu":
        return "reference"
    if not exact:
        raise ConfigError("exact is off, which only the slower reference backend knows; add backend reference, or drop exact")
    if find_kernels() is not None:
        return "cpu"
    if "missing" not in _said:
        _said.add("missing")
        print("brigade: the C++ kernels were not built (no compiler?); the slower reference backend is used", file=sys.stderr)
    return "reference"


def register_backend(name: str, make: Callable[..., Backend]) -> None:
    """`make(device=..., exact=...)` returns the backend. A name is taken once. Where `numerics` are asked for, they must be the
    whole numerics id of the model that is computed with it."""
    if name in _BACKENDS:
        raise ConfigError(f"a backend named {name!r} exists already; choose another name")
    _BACKENDS[name] = make


def backend_names() -> list[str]:
    return sorted(_BACKENDS)


def get_backend(name: str, device: str = "cpu", exact: bool = True, numerics: str | None = None) -> Backend:
    """`numerics`: the bits that are wanted, as `backends/cpu/numerics.py` names them."""
    if name == "auto":
        name = best_backend(device, exact)
    if name not in _BACKENDS:
        raise ConfigError(f"unknown backend {name!r}; known: auto, {', '.join(backend_names())}")
    if device != "cpu":
        _check_device(device)
    if name == "cpu":
        return _cpu(device=device, exact=exact, numerics=numerics)
    made = _BACKENDS[name](device=device, exact=exact)
    if numerics is not None and "/" not in numerics:  # a kind of the kernels' bits; a whole id is held against the model
        raise ConfigError(
            f"numerics is {numerics!r}, which only the cpu backend can choose; the {name} backend computes as {made.numerics_id} "
            "here: drop numerics, or take backend cpu where its kernels are"
        )
    return made


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        others = f"cpu or cuda:0 to cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"device is {device!r}, which torch cannot use here; use {others}") from error
