"""Which files of a folder are read, and what is said of weights that are no numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brigade.backends.cpu.library import find_kernels
from brigade.backends.registry import get_backend
from brigade.checkpoint.load import load_model, open_model
from brigade.checkpoint.safetensors_folder import SafetensorsFolder
from brigade.errors import UserError
from tests.model.tiny_models import save_tiny

BACKENDS = ("reference", "cpu") if find_kernels() is not None else ("reference",)


def load(folder: Path, backend: str = "reference", dtype: torch.dtype = torch.float32):
    return load_model(open_model(folder), get_backend(backend), dtype)


def refusal(folder: Path, backend: str = "reference", dtype: torch.dtype = torch.float32) -> str:
    with pytest.raises(UserError) as refused:
        load(folder, backend, dtype)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("shard", [None, "20KB"])
def test_a_second_copy_beside_the_weights_is_not_read(shard: str | None, tmp_path: Path) -> None:
    """Official Mistral folders ship `consolidated.safetensors`, whose tensors have other names."""
    save_tiny("mistral", 0, tmp_path, shard=shard)
    save_file({"layers.0.attention.wq.weight": torch.zeros(4)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "adapter.safetensors").write_bytes(b"not even safetensors")
    assert load(tmp_path).num_parameters > 0


def test_the_index_goes_before_a_single_file(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path, shard="20KB")
    save_file({"something.else": torch.zeros(4)}, tmp_path / "model.safetensors")
    assert load(tmp_path).num_parameters > 0


def test_a_tensor_is_read_from_the_file_where_the_index_places_it(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"both": torch.full((3,), float(number)), f"own.{number}": torch.zeros(1)}, tmp_path / f"{number}.safetensors")
    for number in (1, 2):
        index = {"weight_map": {"both": f"{number}.safetensors", "own.1": "1.safetensors", "own.2": "2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert SafetensorsFolder(tmp_path).read("both").tolist() == [float(number)] * 3


def test_files_that_nothing_names_are_refused_by_name(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    assert "model-00001-of-00001.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {}}, "places no tensor"),
        ({"weight_map": ["model.safetensors"]}, "places no tensor"),
        ({"weight_map": {"model.norm.weight": 3}}, "no file's name"),
        ({"weight_map": {"model.norm.weight": "../model.safetensors"}}, "no file's name"),
        ({}, "corrupt"),
        ([], "corrupt"),
    ],
)
def test_an_index_that_says_nothing_is_refused(index, words: str, tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinite_weights_are_named(backend: str, tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    name = "model.layers.1.self_attn.k_proj.weight"  # one of three that become one matrix

    def spoil(tensors) -> None:
        tensors[name][1, 2] = tensors[name][0, 0] = float("nan")
        tensors[name][3, 3] = float("-inf")

    rewrite(tmp_path, spoil)
    assert f"{name} in {tmp_path / 'model.safetensors'} holds 2 NaN and 1 infinite values of 512" in refusal(tmp_path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.block_sparse_moe.experts.4.w2.weight"]
)
def test_in_tables_norms_and_experts_too(name: str, backend: str, tmp_path: Path) -> None:
    save_tiny("mixtral", 0, tmp_path)
    stored = set(load_file(tmp_path / "model.safetensors"))
    assert name in stored

    rewrite(tmp_path, lambda tensors: tensors[name].view(-1)[-1:].fill_(float("inf")))
    assert f"{name} in" in (said := refusal(tmp_path, backend)) and "0 NaN and 1 infinite" in said


def test_a_value_that_becomes_infinite_by_rounding_is_named(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    rewrite(tmp_path, lambda tensors: tensors["model.norm.weight"][:1].fill_(3.4e38))
    assert "too large for bfloat16" in refusal(tmp_path, dtype=torch.bfloat16)
    assert load(tmp_path).num_parameters > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "gpt_neox"])
def test_progress_ends_at_its_total(name: str, backend: str, tmp_path: Path) -> None:
    save_tiny(name, 0, tmp_path)
    seen: list[tuple[int, int]] = []
    load_model(open_model(tmp_path), get_backend(backend), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1)) and {total for _, total in seen} == {len(seen)}


@pytest.mark.parametrize(("asked", "held"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_float16_becomes_bfloat16_only_where_it_is_asked_for(asked: str, held: str, tmp_path: Path, capsys) -> None:
    from brigade.api.llm import LLM

    save_tiny("llama", 0, tmp_path).half().save_pretrained(tmp_path)
    assert open_model(tmp_path).dtype == "float16"
    assert str(LLM(tmp_path, dtype=asked, kv_blocks=2).dtype) == f"torch.{held}"
    said = capsys.readouterr().err
    assert ("float16, which becomes float32 and takes twice the memory" in said) == (held == "float32")
