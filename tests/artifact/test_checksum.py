"""Checksums of pieces: which bytes each is of, and how many there are."""

from __future__ import annotations

import numpy as np
import pytest

from brigade.backends.cpu.library import find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.checksum import PIECE, pieces_of, steps_of, table_step
from brigade.artifact.manifest import DIGITS, MatrixEntry, Span
from brigade.backends.cpu.matrix import Layout


def checksum(data: np.ndarray, stride: int | None = None, runs: int = 1) -> int:
    return kernels().br_checksum(
        data.ctypes.data, data.size if stride is None else stride // 2, stride or 0, runs
    )  # the first half of each


def test_it_is_crc_32c_with_and_without_its_instruction() -> None:
    known = np.frombuffer(b"123456789", np.uint8)
    assert checksum(known) == kernels().br_checksum_by_tables(known.ctypes.data, 9) == 0xE3069283
    data = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    for first, last in ((0, 5000), (1, 4096), (3, 10), (7, 7)):
        part = data[first:last]
        assert checksum(part) == kernels().br_checksum_by_tables(part.ctypes.data, part.size)


def test_runs_are_summed_as_if_they_were_one() -> None:
    data = np.random.default_rng(1).integers(0, 256, 8 * 64, np.uint8)
    assert checksum(data, 64, 8) == checksum(np.ascontiguousarray(data.reshape(8, 64)[:, :32]).reshape(-1))


def bytes_of(span: Span, *which) -> np.ndarray:
    """How often each byte of an array is in its pieces."""
    found = np.zeros(span.offset + span.bytes, int)
    for piece in pieces_of(span, *which):
        for run in range(piece.runs):
            found[piece.offset + run * piece.stride : piece.offset + run * piece.stride + piece.bytes] += 1
        assert piece.end <= found.size
    return found[span.offset :]


@pytest.mark.parametrize(("step", "blocks"), [(1, 1), (2, 1), (3, 8), (7, 4), (9, 2)])
def test_pieces_are_every_byte_once(step: int, blocks: int) -> None:
    span = Span("f", 64, 7 * 16, 7, step, blocks)
    assert (bytes_of(span) == 1).all()
    if blocks > 1:
        each = bytes_of(span, None, (1, 2)).reshape(7, blocks, -1)
        assert (each[:, 1] == 1).all() and each.sum() == each[:, 1].size
    else:
        some = bytes_of(span, ((2, 4), (6, 7))).reshape(7, 16)
        assert (some[[2, 3, 6]] == 1).all() and some[:2].sum() == 0 and (step == 2 or some[[4, 5]].sum() == 0)


def entry(n: int, k: int, scheme: str, tree: bool = False, head: int = 0) -> tuple[MatrixEntry, int]:
    how, rows = Layout(scheme, n, k, tree), {"q": n // 3, "k": n // 3, "v": n // 3} if head else {}
    made = MatrixEntry("m", scheme, (n, k), tree, False, None, 128, how.blocks, how.block_k, {}, rows, head)
    return made, how.counts()[0]


def digits(entry: MatrixEntry) -> int:
    """Of all arrays."""
    data, *columns = Layout(entry.scheme, *entry.shape, entry.tree).counts()
    blocks, sizes = entry.blocks if entry.tree else 1, [4 * count for count in columns]
    along_k = [data] + ([sizes.pop(0)] if entry.scheme == "int4" else [])
    pieces = [-(-entry.panels // steps_of(entry, size, blocks)) * blocks for size in along_k]
    pieces += [-(-entry.panels // steps_of(entry, size, 1)) for size in sizes if size]
    return sum(pieces) * DIGITS


@pytest.mark.parametrize(("scheme", "most"), [("int4", 1.4e6), ("int8", 2.4e6), ("bfloat16", 3.8e6), ("float32", 5.2e6)])
def test_a_manifest_of_175b_stays_small(scheme: str, most: float) -> None:
    """96 layers of width 12288; what a rank of any layout takes ends where a piece ends, and a piece is about a megabyte."""
    h, total = 12288, 0
    for n, k, tree, head in ((3 * h, h, False, 128), (h, h, True, 0), (4 * h, h, False, 0), (h, 4 * h, True, 0)):
        made, size = entry(n, k, scheme, tree, head)
        step, blocks = steps_of(made, size, made.blocks if tree else 1), made.blocks if tree else 1
        total += 96 * digits(made)
        assert step * size // made.panels // blocks <= max(PIECE, size // made.panels // blocks)
        assert tree or (128 // 32 if head else made.panels // 8) % step == 0
    assert 0.9 * most < total < most, f"{total} digits"


def test_a_cut_that_may_end_anywhere_has_a_checksum_for_each_panel() -> None:
    assert steps_of(*entry(32 * 1571, 64, "int8"), 1) == 1
    assert steps_of(*entry(32 * 1536, 64, "int8"), 1) > 1
    assert steps_of(*entry(3 * 320, 64, "int8", head=80), 1) == 1 and steps_of(*entry(3 * 512, 64, "int8", head=64), 1) == 2
    assert table_step(512) == 32 and table_step(511) == 1
