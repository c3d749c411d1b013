"""Stretches of a file: read alike natively and by Python, no byte more than is wanted, and every trouble is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from brigade.backends.cpu import stretches
from brigade.backends.cpu.library import find_kernels
from brigade.backends.cpu.stretches import read_stretches

WAYS = ["native", "python"] if find_kernels() is not None else ["python"]
IO = Path("/proc/thread-self/io")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(stretches, "_native", lambda: None)
    return request.param


@pytest.fixture
def file(tmp_path: Path):
    (tmp_path / "file").write_bytes(np.random.default_rng(0).bytes(100_000))
    with (tmp_path / "file").open("rb", buffering=0) as opened:
        yield opened


def read(file, starts, length: int) -> tuple[bool, bytes]:
    into = np.zeros(len(starts) * length, np.uint8)
    return read_stretches(file.fileno(), np.array(starts, np.int64), length, into), into.tobytes()


@pytest.mark.parametrize("length", [1, 7, 4096, 50_000])
@pytest.mark.parametrize("starts", [[0], [3, 50_000, 7], list(range(0, 50_000, 1000)), []])
def test_they_come_one_after_the_other(way: str, file, starts: list[int], length: int) -> None:
    whole = os.pread(file.fileno(), 100_000, 0)
    assert read(file, starts, length) == (True, b"".join(whole[start : start + length] for start in starts))


@pytest.mark.skipif(not IO.exists(), reason="this system does not count what a thread reads")
def test_no_more_is_read_than_is_wanted(way: str, file) -> None:
    def counted(starts: list[int]) -> int:
        before = IO.read_text()
        read(file, starts, 1000)
        after = IO.read_text()
        return int(after.split()[1]) - int(before.split()[1]) - len(before)

    assert counted([5, 70_000, 900]) - counted([]) == 3000


@pytest.mark.parametrize("starts", [[99_999], [0, 99_500], [200_000]])
def test_a_file_that_ends_too_early_is_told(way: str, file, starts: list[int]) -> None:
    assert read(file, starts, 600)[0] is False


def test_what_cannot_be_read_is_told(way: str, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError) as raised:
            read_stretches(folder, np.zeros(1, np.int64), 4, np.zeros(4, np.uint8))
    finally:
        os.close(folder)
    assert raised.value.errno == errno.EISDIR and raised.value.strerror
