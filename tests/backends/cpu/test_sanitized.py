"""Guards `make sanitize`: its build must die of a byte too far. Elsewhere there is nothing to ask."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from brigade.backends.cpu.library import available_paths, find_kernels

pytestmark = pytest.mark.skipif(not os.environ.get("ASAN_OPTIONS"), reason="only under `make sanitize`")

BEYOND = """
import ctypes
from brigade.backends.cpu.library import choose_path, kernels
from brigade.backends.cpu.matrix import pack_norm
choose_path({path!r})
norm = pack_norm("rmsnorm", 33, None, None, 1e-5, 0.0)
memory = ctypes.CDLL(None).malloc
memory.restype, memory.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
kernels().br_norm(ctypes.byref(norm.struct), memory(33 * 4 * 2), 2, memory(33 * 4 * 2 - 4))
"""


@pytest.mark.parametrize("path", available_paths() if find_kernels() is not None else ())
def test_one_float_too_far_is_found(path: str) -> None:
    found = subprocess.run([sys.executable, "-c", BEYOND.format(path=path)], capture_output=True, text=True)
    assert found.returncode != 0 and "heap-buffer-overflow" in found.stderr
