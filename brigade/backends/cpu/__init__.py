"""The CPU backend: C++ kernels over packed weights, close to the machine's limit and with the same bits whatever the batch."""

from brigade.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
