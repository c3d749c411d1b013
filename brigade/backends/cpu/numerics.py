"""Which bits the kernels make, by name, and the one choice of a process among them.

All paths agree but for products of bfloat16 numbers, which have an order of their own for each kind of instruction: `bf16-fma`,
`bf16-avx512` and `bf16-amx`. So the numerics id names that kind where such products take part, and nothing else of the path. A
user may ask for a kind (`bf16-fma`) or for a whole id as a report shows it. The fastest path that gives those bits is then taken,
and by the whole process, since the path is one for all of its models: a model made before would change its bits.
"""

from __future__ import annotations

import os
import threading

import torch

from brigade.backends.base import G
from brigade.backends.cpu.library import bf16_names, choose_path, kernels
from brigade.backends.cpu.quant import Quant
from brigade.errors import ConfigError

GENERATION = "cpu-2"  # raised whenever the same model would give other bits on the same path
_in_use = False
_settling = threading.Lock()


def numerics_id(quant: Quant, dtype: torch.dtype | None) -> str:
    """Of the path in force. `dtype` is that of the cache, and of what `quant` leaves whole; None: it may be any."""
    parts = [GENERATION]
    if quant.widens or dtype != torch.float32:
        parts.append(kernels().br_bf16_name().decode())
    parts.append(f"G{G}")
    if quant.scheme != "none":
        parts.append(quant.label)
    return "/".join(parts)


def without_path(identity: str) -> str:
    """A numerics id but for what depends on the path."""
    return "/".join(part for part in identity.split("/") if not part.startswith("bf16-"))


def settle_numerics(wanted: str | None) -> None:
    """Called for each backend that is made: the first may choose, a later one must agree."""
    global _in_use
    with _settling:
        if wanted is not None:
            _choose(wanted)
        _in_use = True


def _choose(wanted: str) -> None:
    kinds = _offered()
    used = kernels().br_bf16_name().decode()
    kind = _kind_of(wanted, used, kinds)
    if kind == used:
        return
    if _in_use:
        raise ConfigError(
            f"numerics is {wanted!r}, but this process computes in {used} already; "
            "ask for the same in all models of a process, or start another one"
        )
    choose_path(kinds[kind])


def _offered() -> dict[str, str]:
    """Each kind that can be had, and the fastest path that gives it."""
    only, kinds = os.environ.get("BRIGADE_PATH"), {}
    for path, kind in bf16_names().items():
        if not only or path == only:
            kinds.setdefault(kind, path)
    return kinds


def _kind_of(wanted: str, used: str, kinds: dict[str, str]) -> str:
    """The kind of bfloat16 products that `wanted` asks for: the one in use where it is all the same."""
    generation, *parts = wanted.split("/")
    named = next((part for part in parts if part.startswith("bf16-")), used) if parts else wanted
    only = f" with BRIGADE_PATH={os.environ['BRIGADE_PATH']}" if os.environ.get("BRIGADE_PATH") else ""
    if (parts and generation != GENERATION) or named not in kinds:
        known = " or ".join(kinds)
        raise ConfigError(f"numerics is {wanted!r}, which no path of this processor gives{only}; ask for {known} ({GENERATION})")
    return named
