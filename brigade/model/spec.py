"""Bricks: a module is described first (`ModuleSpec`) and built later (`build_module`).

A spec is data. It can be printed, compared, and changed with `replace` before anything is allocated, so a new family,
another norm or another backend's layer is another spec, and no model file changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ModuleSpec:
    """Which module, with which parameters, made of which parts."""

    module: Callable[..., nn.Module]
    params: Mapping[str, Any] = field(default_factory=dict)
    submodules: Mapping[str, ModuleSpec] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return getattr(self.module, "__name__", type(self.module).__name__)

    def with_submodule(self, name: str, spec: ModuleSpec) -> ModuleSpec:
        """The same spec with one part exchanged."""
        assert name in self.submodules, f"{self.name} has no part {name!r}, only {sorted(self.submodules)}"
        return ModuleSpec(self.module, self.params, {**self.submodules, name: spec})


def build_module(spec: ModuleSpec, **context: Any) -> nn.Module:
    """Build the parts, then the whole.

    `context` is what only the builder knows (layer number, backend); each module is given what its signature asks for.
    """
    parts = {name: build_module(part, **context) for name, part in spec.submodules.items()}
    asked = _asked(spec.module)
    return spec.module(**spec.params, **parts, **{name: value for name, value in context.items() if name in asked})


@cache
def _asked(module: Callable[..., nn.Module]) -> frozenset[str]:
    """Looked up once for each kind of module: that takes longer than to build it."""
    return frozenset(inspect.signature(module).parameters)
