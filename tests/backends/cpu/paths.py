"""The instruction sets to test with: the best and the portable one always, those between in the slow set."""

import pytest

from brigade.backends.cpu.library import available_paths, find_kernels

FOUND = available_paths() if find_kernels() is not None else ()
PATHS = [path if path in (FOUND[0], FOUND[-1]) else pytest.param(path, marks=pytest.mark.slow) for path in FOUND]
