"""What a later layout relies on: an artifact's arrays are cut by outputs or by blocks of K, and nothing is quantised again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.manifest import read_manifest
from brigade.backends.cpu.matrix import ARRAYS, KINDS, Layout, PackedMatrix, aligned, pack
from tests.artifact.builders import export

SCHEMES = tuple(KINDS)


def copied(part) -> object:
    """On a cache line, as the kernels want it."""
    out = aligned(part.size, part.dtype.type)
    out[:] = part.reshape(-1)
    return out


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rank_takes_a_run_of_panels(scheme: str, gated: bool) -> None:
    """Column-parallel, over two ranks: half of the panels of every array. A gated panel holds gate and up that belong together."""
    torch.manual_seed(1)
    weight, bias, x = torch.randn(256, 128), torch.randn(256), torch.randn(5, 128)
    whole = pack(weight, bias, scheme, tree=False, gated=gated, activation="silu" if gated else None)
    rows = torch.arange(256).view(2, 128) if not gated else torch.arange(256).view(2, 2, 64).transpose(0, 1).reshape(2, 128)
    for rank in range(2):
        halves = [None if a is None else copied(a.reshape(2, -1)[rank]) for a in whole.arrays]
        part = PackedMatrix.over(Layout(scheme, 128, 128, gated=gated, activation=whole.layout.activation), tuple(halves))
        assert torch.equal(part.unpack(), whole.unpack()[rows[rank]])
        if not gated:
            assert torch.equal(part(x), whole(x)[:, rows[rank]])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rank_takes_a_run_of_blocks(scheme: str) -> None:
    """Row-parallel, over two ranks: four of the eight blocks of K out of every panel, with the scales of the whole."""
    torch.manual_seed(2)
    whole = pack(torch.randn(64, 1024), None, scheme, tree=True)
    data, scale, colsum, _ = whole.arrays
    panels, blocks = 2, whole.layout.blocks
    for rank in range(2):
        run = slice(rank * blocks // 2, (rank + 1) * blocks // 2)
        own = copied(data.reshape(panels, blocks, -1)[:, run])
        scales = None if scale is None else copied(scale.reshape(panels, blocks, -1)[:, run]) if scheme == "int4" else scale
        part = PackedMatrix.over(Layout(scheme, 64, 512), (own, scales, colsum, None))
        assert torch.equal(part.unpack(), whole.unpack()[:, rank * 512 : (rank + 1) * 512])


def test_the_manifest_says_where_to_cut(tmp_path: Path) -> None:
    manifest = read_manifest(export("mini", tmp_path / "a", "--quant", "int4"))
    entries = {entry.name: entry for entry in manifest.matrices}
    assert entries["layers.3.attention.qkv"].rows == {"q": 256, "k": 128, "v": 128}
    assert entries["layers.3.mlp.up"].gated and entries["layers.3.mlp.up"].activation == "silu"
    down = entries["layers.3.mlp.down"]
    assert down.tree and down.blocks == manifest.reduction_width == 8 and down.block_k * 8 >= down.shape[1] == 656
    assert set(down.arrays) <= set(ARRAYS) and all(span.offset % 64 == 0 for span in down.arrays.values())
    assert all(entry.arrays["data"].offset % 4096 == 0 for entry in manifest.matrices)
    assert all(entry.span.offset % 4096 == 0 for entry in manifest.tensors)
