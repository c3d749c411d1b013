"""A rank that fails while the model is loaded, where others wait for the greatest numbers of its columns: nobody hangs."""

from __future__ import annotations

import os
import time

import pytest

from brigade import LLM
from brigade.backends.cpu.library import find_kernels
from brigade.errors import CheckpointError, RankFailed
from tests.parallel.test_lives import children_of

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

KILLED, REFUSED = "rank 1 .* died by signal 9", "rank 1 .* raised tensor x holds 1 NaN"
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("fault", "exchange", "error", "words"),
    [
        ("1 raise", "auto", RankFailed, REFUSED),
        pytest.param("0 raise", "auto", CheckpointError, "tensor x holds 1 NaN", marks=slow),
        pytest.param("1 kill", "auto", RankFailed, KILLED, marks=slow),
        pytest.param("1 raise", "group", RankFailed, REFUSED, marks=slow),
        pytest.param("0 raise", "group", CheckpointError, "tensor x holds 1 NaN", marks=slow),
        pytest.param("1 kill", "group", RankFailed, KILLED, marks=slow),
    ],
)  # fmt: skip
def test_a_rank_that_fails_at_loading_is_named(fault, exchange, error, words, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.api import loading_faults

    rank, what = fault.split()
    monkeypatch.setattr(loading_faults.Packer, "_read", loading_faults.real)
    if rank == "0":
        monkeypatch.setattr(loading_faults, "rank", rank)
        monkeypatch.setattr(loading_faults, "what", what)
        monkeypatch.setattr(loading_faults.Packer, "_read", loading_faults.faulty)
    monkeypatch.setenv("BRIGADE_TEST_LOADING", fault)
    children, begun = children_of(os.getpid()), time.monotonic()
    with pytest.raises(error, match=words):
        LLM(tp=2, quant="int8", kv_blocks=16, exchange=exchange, import_modules=["tests.api.loading_faults"])
    assert time.monotonic() - begun < 30 and children_of(os.getpid()) == children
