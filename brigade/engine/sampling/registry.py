"""The sampling parameters that were registered beside the built-in ones: their names, and how their values are checked.

`SamplingParams` checks its `extra` here, so this file knows neither parameters nor rows. `extra.py` registers and applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from brigade.errors import ConfigError, RequestError, shown_as_json


@dataclass(frozen=True, slots=True)
class Parameter:
    check: Callable[[Any], str | None]  # what is wrong with a value, or None
    process: Callable[..., Any]  # what it does to a row of logits: `extra.Processor`


_PARAMETERS: dict[str, Parameter] = {}


def add(name: str, parameter: Parameter) -> None:
    """A name is taken once."""
    if name in _PARAMETERS:
        raise ConfigError(f"a sampling parameter named {name!r} exists already; choose another name")
    _PARAMETERS[name] = parameter


def registered(name: str) -> Parameter:
    if name not in _PARAMETERS:
        known = ", ".join(sorted(_PARAMETERS)) or "none"
        raise RequestError(
            f"unknown sampling parameter {name!r}; registered: {known}. Import the module that registers it: --import MODULE",
            f"extra.{name}",
        )
    return _PARAMETERS[name]


def names() -> list[str]:
    return sorted(_PARAMETERS)


def check_extra(extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        wrong = registered(name).check(value)
        if wrong:
            raise RequestError(f"{name} is {shown_as_json(value)}; {wrong}", f"extra.{name}")
