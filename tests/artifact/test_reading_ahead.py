"""How the disk is asked for what is proven: all of a file in one go, or of a sparse share its own bytes alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brigade.artifact.checksum import Piece
from brigade.artifact.maps import ASKED, Maps
from brigade.backends.cpu.library import find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

NAME, SIZE = "weights-0.packed", 1 << 20


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    (tmp_path / NAME).write_bytes(np.random.default_rng(1).integers(0, 256, SIZE, np.uint8).tobytes())
    return Maps(tmp_path, [NAME])


def piece(maps: Maps, offset: int, size: int, stride: int = 0, runs: int = 1) -> Piece:
    found = kernels().br_checksum(np.frombuffer(maps[NAME], np.uint8).ctypes.data + offset, size, stride or size, runs)
    return Piece(NAME, offset, size, stride or size, runs, found)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], set[int]]:
    """What the system was told of the maps, and the bytes that it was asked for."""
    advice, asked = list[str](), set[int]()

    def fadvise(file: int, first: int, length: int, how: int) -> None:
        assert how == os.POSIX_FADV_WILLNEED and length <= ASKED
        asked.update(range(first, first + length))

    monkeypatch.setattr(Maps, "_advise", lambda self, how: advice.append(how))
    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    return advice, asked


def test_a_whole_file_is_read_on_by_itself(maps: Maps, told) -> None:
    pieces = [piece(maps, at, SIZE // 8) for at in range(0, SIZE, SIZE // 8)]
    assert maps.damaged(pieces, lambda count: None) is None
    assert told == (["MADV_SEQUENTIAL", "MADV_NORMAL"], set())


def test_so_are_the_layers_of_one_stage_and_half_of_every_panel(maps: Maps, told) -> None:
    stage = [piece(maps, SIZE // 2 + at, 4096) for at in range(0, SIZE // 4, 4096)]
    half = [piece(maps, 0, 4096, stride=8192, runs=SIZE // 8192)]
    for pieces in (stage, half):
        told[0].clear()
        assert maps.damaged(pieces, lambda count: None) is None
        assert told == (["MADV_SEQUENTIAL", "MADV_NORMAL"], set())


@pytest.mark.parametrize(("width", "advice"), [(3600, "MADV_RANDOM"), (3800, "MADV_SEQUENTIAL")])
def test_dense_is_what_takes_nearly_half(maps: Maps, told, width: int, advice: str) -> None:
    pieces = [piece(maps, 0, width, stride=8192, runs=SIZE // 8192)]
    assert maps.damaged(pieces, lambda count: None) is None and told[0][0] == advice


def test_of_a_sparse_share_only_its_own_bytes_are_asked_for(maps: Maps, told) -> None:
    """An eighth of every panel, and a run that is longer than one question."""
    pieces = [piece(maps, 0, ASKED + 100), piece(maps, SIZE // 2, 4096, stride=32768, runs=16)]
    assert maps.damaged(pieces, lambda count: None) is None
    assert told[0] == ["MADV_RANDOM", "MADV_NORMAL"]
    runs = [(0, ASKED + 100), *((SIZE // 2 + at, 4096) for at in range(0, 16 * 32768, 32768))]
    assert told[1] == {byte for first, length in runs for byte in range(first, first + length)}


@pytest.mark.parametrize("dense", [True, False])
def test_the_first_damaged_piece_is_named_either_way(maps: Maps, dense: bool) -> None:
    pieces = [piece(maps, at, 4096 if not dense else 32768) for at in range(0, SIZE, 32768)]
    for at in (9, 5):
        pieces[at] = replace(pieces[at], sum=pieces[at].sum ^ 1)
    assert maps.damaged(pieces, lambda count: None) == pieces[5]
