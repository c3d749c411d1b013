"""A door: sampling parameters of your own. A name, a check of its value, and what it does to a row of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from brigade.engine.sampling.params import SamplingParams
from brigade.engine.sampling.registry import Parameter, add, registered
from brigade.engine.sampling.row import SampleRow
from brigade.errors import ConfigError

Processor = Callable[[Tensor, Any, SampleRow], Tensor]  # (logits of one row, value, row) -> logits


def register_parameter(name: str, check: Callable[[Any], str | None], process: Processor) -> None:
    """From now on `SamplingParams(extra={name: value})` is allowed. A name is taken once."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{name!r} cannot name a sampling parameter; use letters, digits and underscores")
    if name in SamplingParams.__dataclass_fields__:
        raise ConfigError(f"{name!r} is a built-in sampling parameter; choose another name")
    add(name, Parameter(check, process))


def process_extra(logits_V: Tensor, row: SampleRow) -> Tensor:
    for name, value in row.params.extra.items():
        logits_V = registered(name).process(logits_V, value, row)
    return logits_V
