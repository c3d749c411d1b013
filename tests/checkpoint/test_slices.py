"""A box of a stored tensor: its own bytes are read and no others, whatever the system does, and broken numbers in it are named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from brigade.backends.cpu import stretches
from brigade.backends.registry import get_backend
from brigade.checkpoint.box import whole
from brigade.checkpoint.load import fill, open_model
from brigade.checkpoint.safetensors_folder import SafetensorsFolder
from brigade.errors import CheckpointError, RankFailed
from brigade.mesh import Part
from brigade.model.gpt_model import empty_model
from tests.checkpoint.tensors_in_memory import cut_out
from tests.checkpoint.test_operations import boxes
from tests.model.tiny_models import save_tiny

SHAPES = {"matrix": (7, 9), "experts": (3, 4, 5), "bias": (11,), "one": (1, 1), "scalar": ()}


def save(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors")
    return tensors


@given(st.data(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.sampled_from(sorted(SHAPES)))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_box_of_any_tensor(tmp_path: Path, data: st.DataObject, dtype: torch.dtype, name: str) -> None:
    tensors, source = save(tmp_path, dtype), SafetensorsFolder(tmp_path)
    box = data.draw(boxes(SHAPES[name]))
    found = source.read(name, box)
    assert found.dtype == dtype and torch.equal(found, cut_out(tensors[name], box)) and source.asked == found.nbytes
    assert torch.equal(source.read(name), tensors[name])


@pytest.fixture
def in_python(monkeypatch) -> None:
    """Files are read by calls that a test can watch. What the kernels do instead is held against them in test_stretches.py."""
    monkeypatch.setattr(stretches, "_native", lambda: None)


class Reads:
    """In place of `os.preadv`: keeps an account, and gives at most so many bytes at once."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.most, self.read, self.real = most, list[int](), os.preadv

    def __call__(self, number: int, buffers: list[memoryview], offset: int) -> int:
        count = self.real(number, [buffers[0][: self.most]], offset)
        self.read += range(offset, offset + count)
        return count


@pytest.mark.parametrize("most", [1 << 30, 7])
def test_of_the_file_its_own_bytes_are_read_and_no_others(most: int, tmp_path: Path, in_python, monkeypatch) -> None:
    """Also where the system gives fewer bytes than it is asked for."""
    tensors, source = save(tmp_path), SafetensorsFolder(tmp_path)
    entry = source.entries["matrix"]
    for rows, columns in (((2, 6), (0, 9)), ((0, 7), (3, 5)), ((6, 7), (8, 9)), ((0, 7), (0, 9))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", reads := Reads(most))
            found = source.read("matrix", (rows, columns))
        assert torch.equal(found, cut_out(tensors["matrix"], (rows, columns)))
        wanted = [entry.start + 4 * (9 * row + column) + i for row in range(*rows) for column in range(*columns) for i in range(4)]
        assert reads.read == wanted


def test_whole_rows_are_one_call_and_columns_are_one_a_row(tmp_path: Path, in_python, monkeypatch) -> None:
    save(tmp_path)
    source, calls, real = SafetensorsFolder(tmp_path), list[int](), os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: calls.append(args[2]) or real(*args))
    for box, count in ((whole(SHAPES["matrix"]), 1), (((1, 5), (0, 9)), 1), (((1, 5), (0, 8)), 4)):
        calls.clear()
        source.read("matrix", box)
        assert len(calls) == count


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    save(tmp_path)
    source = SafetensorsFolder(tmp_path)
    last = max(source.entries.values(), key=lambda entry: entry.start)
    os.truncate(tmp_path / "model.safetensors", last.start + last.bytes - 3)
    name = next(name for name, entry in source.entries.items() if entry is last)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        source.read(name)


def test_a_disk_that_fails_is_named(tmp_path: Path, in_python, monkeypatch) -> None:
    save(tmp_path)
    source = SafetensorsFolder(tmp_path)

    def fail(*_) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read \(Input/output error\)"):
        source.read("matrix", ((0, 7), (1, 3)))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not say what is mapped")
def test_no_file_stays_mapped_or_open(tmp_path: Path) -> None:
    save_tiny("gpt2", 0, tmp_path)
    model = fill(part_of(tmp_path, 1), open_model(tmp_path))
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and str(tmp_path) in os.readlink(link)]
    assert model.num_parameters > 0


def part_of(folder: Path, tp_rank: int):
    config = open_model(folder).config
    return empty_model(config, get_backend("reference"), held=Part(0, config.num_layers, config.num_layers, 2, tp_rank))


def spoil(folder: Path, name: str, rows: slice, columns: slice, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][rows, columns] = value
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("family", "name", "rows", "columns", "seen"),
    [
        ("llama", "model.layers.1.self_attn.k_proj.weight", slice(9, 10), slice(3, 5), "256 (of 512)"),
        ("llama", "model.layers.0.mlp.down_proj.weight", slice(0, 1), slice(46, 48), "768 (of 1536)"),
        ("gpt2", "transformer.h.2.mlp.c_fc.weight", slice(3, 4), slice(126, 128), "2048 (of 4096)"),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight", slice(95, 96), slice(0, 2), "1536 (of 3072)"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.4.w2.weight", slice(31, 32), slice(40, 42), "768 (of 1536)"),
    ],
)
def test_the_rank_that_reads_a_broken_number_names_it(family, name, rows, columns, seen, tmp_path: Path) -> None:
    """The other rank does not see it: it is none of its bytes."""
    save_tiny(family, 0, tmp_path)
    spoil(tmp_path, name, rows, columns, float("nan"))
    fill(part_of(tmp_path, 0), open_model(tmp_path))
    with pytest.raises(CheckpointError) as refused:
        fill(part_of(tmp_path, 1), open_model(tmp_path))
    assert f"tensor {name} in {tmp_path / 'model.safetensors'} holds 2 NaN and 0 infinite values of the {seen} that this rank" in (
        str(refused.value)
    )


def test_a_number_that_is_too_large_for_the_type_is_named_by_its_file(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    spoil(tmp_path, "model.layers.0.mlp.up_proj.weight", slice(47, 48), slice(0, 1), 3.4e38)
    fill(part_of(tmp_path, 0), open_model(tmp_path), torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"layers.0.mlp.up.weight in .*model.safetensors holds values too large for bfloat16"):
        fill(part_of(tmp_path, 1), open_model(tmp_path), torch.bfloat16)


def test_a_broken_number_in_one_ranks_share_ends_the_load_of_all(tmp_path: Path) -> None:
    """With real processes: the leader, which has read no broken number, says whose share has one."""
    from brigade import LLM

    save_tiny("llama", 0, tmp_path)
    name = "model.layers.1.mlp.gate_proj.weight"
    spoil(tmp_path, name, slice(47, 48), slice(0, 1), float("nan"))
    with pytest.raises(RankFailed) as refused:
        LLM(tmp_path, backend="reference", tp=2, kv_blocks=8)
    assert f"rank 1 (stage 0, tensor rank 1) raised tensor {name} in" in str(refused.value)
    assert "holds 1 NaN and 0 infinite values of the 768 (of 1536) that this rank reads" in str(refused.value)
    assert "\n" not in str(refused.value)
