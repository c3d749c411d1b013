"""Small shapes run fastest on one thread; tests about threads set their own."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.backends.cpu.threads import size_pool
from brigade.backends.reference.strict import ask_for_strict_order

# The math library reads its order once, at its first product, which here may be another library's model.
ask_for_strict_order()


def pytest_collection_finish() -> None:
    """What is imported by now stays until the process ends: no collection looks at it again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    if find_kernels() is not None:
        size_pool(threads=1)
    yield
    torch.set_num_threads(before)
