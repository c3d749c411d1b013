"""Every family's logits equal those of transformers, at every position, in float32, on every backend and instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.checkpoint.load import load_model, open_model
from tests.model.tiny_models import FAMILIES, save_tiny

TOLERANCE = 1e-4
LENGTH = 50


BACKENDS = ("reference", "cpu") if find_kernels() is not None else ("reference",)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest):
    return get_backend(request.param)


def our_logits(folder: Path, ids: list[int], backend, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    source = open_model(folder)
    model = load_model(source, backend, dtype=dtype)
    config = source.config
    # Scattered blocks, the smallest that every backend takes.
    cache = KVCache.allocate(config.num_layers, 8, config.num_kv_heads, 32, backend.cache_dim(config.head_dim), dtype)
    with torch.inference_mode():
        return model(Batch((Span(ids, 0, [3, 1, 7, 0], Wanted.ALL),)), cache)


def their_logits(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


def compare(name: str, seed: int, tied: bool | None, folder: Path, backend, **changes) -> None:
    theirs = save_tiny(name, seed, folder, tied, **changes)
    ids = torch.randint(0, theirs.config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()
    expected, got = their_logits(theirs, ids), our_logits(folder, ids, backend)
    assert expected.std() > 0.05, "these logits could not tell a wrong network from a right one"
    assert (got - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path, backend) -> None:
    compare(name, 0, None, tmp_path, backend)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "llama", "qwen2", "gemma2", "mixtral"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_with_an_odd_vocabulary(name: str, tied: bool, tmp_path: Path, backend) -> None:
    compare(name, 1, tied, tmp_path, backend, vocab_size=131)


@pytest.mark.slow
@pytest.mark.parametrize("path", available_paths() if find_kernels() is not None else ())
@pytest.mark.parametrize("name", FAMILIES)
def test_every_instruction_set_says_the_same(name: str, path: str, tmp_path: Path) -> None:
    choose_path(path)
    try:
        compare(name, 7, None, tmp_path, get_backend("cpu"), vocab_size=131)
    finally:
        choose_path("")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("vocab", [61, 97, 128, 257])
@pytest.mark.parametrize("name", FAMILIES)
def test_many_seeds_and_vocabularies(name: str, seed: int, vocab: int, tmp_path: Path, backend) -> None:
    compare(name, seed, [None, True, False][seed % 3], tmp_path, backend, vocab_size=vocab)


def test_a_sharded_folder_loads_like_a_whole_one(tmp_path: Path, backend) -> None:
    save_tiny("llama", 0, tmp_path / "whole")
    save_tiny("llama", 0, tmp_path / "sharded", shard="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    ids = list(range(20))
    assert torch.equal(our_logits(tmp_path / "whole", ids, backend), our_logits(tmp_path / "sharded", ids, backend))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "rms_norm_eps", 1e-1),
        ("mistral", "sliding_window", 8),
        ("gemma2", "query_pre_attn_scalar", 20),
        ("qwen3_moe", "norm_topk_prob", False),
        ("gpt_neox", "use_parallel_residual", False),
        ("gpt2", "activation_function", "relu"),
    ],
)
def test_the_comparison_sees_one_wrong_setting(name: str, key: str, value, tmp_path: Path, backend) -> None:
    import json

    theirs = save_tiny(name, 0, tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    settings[key] = value
    file.write_text(json.dumps(settings))
    ids = list(range(5, 55))
    difference = (our_logits(tmp_path, ids, backend) - their_logits(theirs, ids)).abs().max()
    assert difference > 10 * TOLERANCE
