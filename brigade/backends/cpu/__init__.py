"""The CPU backend: C++ kernels over packed weights, close to the machine's limit and with the same bits whatever the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brigade.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]


def __getattr__(name: str) -> Any:
    """At first use: a process that needs the kernels' library alone does not load torch."""
    if name != "CpuBackend":
        raise AttributeError(f"module 'brigade.backends.cpu' has no attribute {name!r}")
    from brigade.backends.cpu.backend import CpuBackend

    return CpuBackend
