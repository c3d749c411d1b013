"""Every family's table, read backwards over our loaded parameters, gives the folder's tensors byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brigade.backends.registry import get_backend
from brigade.checkpoint.families.registry import family_names
from brigade.checkpoint.load import load_model, open_model, open_weights
from brigade.checkpoint.operations import inverted
from tests.model.tiny_models import FAMILIES, save_tiny

OWN = {"gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "olmoe", "opt", "phi3", "qwen2", "qwen3",
       "qwen3_moe"}  # fmt: skip


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.view(torch.uint8))


def backwards(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors that a folder with our parameters would have, in the type that the weights were rounded to."""
    source = open_model(folder)
    model = load_model(source, get_backend("reference"), dtype)
    _, table = open_weights(source)
    return {name: tensor.to(dtype) for name, tensor in inverted(table, dict(model.named_parameters()))}


def test_these_are_all_that_ship() -> None:
    assert set(family_names()) >= OWN
    kinds = {name: class_name for name, (class_name, _) in FAMILIES.items()}
    assert len(set(kinds.values())) == len(OWN) == 13


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [None, *(pytest.param(tied, marks=pytest.mark.slow) for tied in (True, False))])
def test_a_folder_again_byte_for_byte(name: str, tied: bool | None, tmp_path: Path) -> None:
    """A norm that is stored as w and means 1 + w is held as w here, so it comes back too."""
    save_tiny(name, 3, tmp_path, tied, vocab_size=61)
    stored, found = load_file(tmp_path / "model.safetensors"), backwards(tmp_path, torch.float32)
    assert set(found) == set(stored)
    assert [key for key in stored if not same_bits(found[key], stored[key])] == []


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "mixtral"])
def test_in_bfloat16_too(name: str, tmp_path: Path) -> None:
    save_tiny(name, 3, tmp_path).bfloat16().save_pretrained(tmp_path)
    stored, found = load_file(tmp_path / "model.safetensors"), backwards(tmp_path, torch.bfloat16)
    assert set(found) == set(stored) and {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert [key for key in stored if not same_bits(found[key], stored[key])] == []


def test_a_tensor_that_was_rounded_comes_back_rounded(tmp_path: Path) -> None:
    save_tiny("llama", 3, tmp_path)
    stored, found = load_file(tmp_path / "model.safetensors"), backwards(tmp_path, torch.bfloat16)
    assert all(same_bits(found[key], tensor.bfloat16()) for key, tensor in stored.items())


def test_the_comparison_sees_one_bit(tmp_path: Path) -> None:
    save_tiny("phi3", 3, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    found = backwards(tmp_path, torch.float32)
    for key in stored:
        changed = stored[key].clone()
        changed.view(torch.int32).view(-1)[-1] ^= 1
        assert not same_bits(found[key], changed)


def test_what_is_written_is_read_as_the_same_model(tmp_path: Path) -> None:
    """Without the wrapper prefix, which the table leaves open."""
    save_tiny("qwen3", 3, tmp_path)
    tensors = backwards(tmp_path, torch.float32)
    before = dict(load_model(open_model(tmp_path), get_backend("reference")).named_parameters())
    bare = {name.removeprefix("model."): tensor.contiguous().clone() for name, tensor in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "model.safetensors")
    after = dict(load_model(open_model(tmp_path), get_backend("reference")).named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
