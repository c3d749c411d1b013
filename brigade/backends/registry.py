"""Backends by name; a backend of your own is one call of `register_backend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brigade.backends.base import Backend
from brigade.errors import ConfigError


def _reference(**settings: Any) -> Backend:
    from brigade.backends.reference import ReferenceBackend

    return ReferenceBackend(**settings)


_BACKENDS: dict[str, Callable[..., Backend]] = {"reference": _reference}


def register_backend(name: str, make: Callable[..., Backend]) -> None:
    """`make(device=..., exact=...)` returns the backend. A name is taken once."""
    if name in _BACKENDS:
        raise ConfigError(f"a backend named {name!r} exists already; choose another name")
    _BACKENDS[name] = make


def backend_names() -> list[str]:
    return sorted(_BACKENDS)


def get_backend(name: str, device: str = "cpu", exact: bool = True) -> Backend:
    if name not in _BACKENDS:
        raise ConfigError(f"unknown backend {name!r}; known: {', '.join(backend_names())}")
    return _BACKENDS[name](device=device, exact=exact)
