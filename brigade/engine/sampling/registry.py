"""A door: sampling parameters of your own. A name, a check of its value, and what it does to a row of logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brigade.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.engine.sampling.row import SampleRow

Processor = Callable[["Tensor", Any, "SampleRow"], "Tensor"]


@dataclass(frozen=True, slots=True)
class Parameter:
    check: Callable[[Any], str | None]  # what is wrong with a value, or None
    process: Processor  # (logits of one row, value, row) -> logits


_PARAMETERS: dict[str, Parameter] = {}


def register_parameter(name: str, check: Callable[[Any], str | None], process: Processor) -> None:
    """From now on `SamplingParams(extra={name: value})` is allowed. A name is taken once."""
    from brigade.engine.sampling.params import SamplingParams  # which itself reads this registry

    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{name!r} cannot name a sampling parameter; use letters, digits and underscores")
    if name in SamplingParams.__dataclass_fields__:
        raise ConfigError(f"{name!r} is a built-in sampling parameter; choose another name")
    if name in _PARAMETERS:
        raise ConfigError(f"a sampling parameter named {name!r} exists already; choose another name")
    _PARAMETERS[name] = Parameter(check, process)


def check_extra(extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        if name not in _PARAMETERS:
            known = ", ".join(sorted(_PARAMETERS)) or "none"
            raise RequestError(f"unknown sampling parameter {name!r}; registered: {known}")
        wrong = _PARAMETERS[name].check(value)
        if wrong:
            raise RequestError(f"{name} is {value!r}; {wrong}")


def process_extra(logits_V: Tensor, row: SampleRow) -> Tensor:
    for name, value in row.params.extra.items():
        logits_V = _PARAMETERS[name].process(logits_V, value, row)
    return logits_V
