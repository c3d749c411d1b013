"""The reference backend proves the row rule at the shapes of the model that it is about to load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from brigade.backends.reference import ReferenceBackend, probe
from brigade.backends.reference import attention as attention_room
from brigade.backends.reference.matmul import MIN_ROWS, DirectMatmul, TiledMatmul, pad_rows
from brigade.checkpoint.load import load_model, open_model
from brigade.config import ModelConfig
from brigade.errors import ConfigError
from brigade.model.gpt_model import empty_model
from tests.model.tiny_models import FAMILIES, save_tiny


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_tried", {})


def breaks(depth: int, width: int):
    """Products that hold for every shape but one, where the last bit changes from 64 rows on."""

    class Breaks(DirectMatmul):
        name = f"breaks at {depth} x {width}"

        def __call__(self, x_MK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
            out = functional.linear(pad_rows(x_MK, MIN_ROWS), weight_NK)[: x_MK.shape[0]]
            odd = tuple(weight_NK.shape) == (width, depth) and x_MK.shape[0] >= 64
            return torch.nextafter(out, torch.full_like(out, 9e9)) if odd else out

    return Breaks()


# The shapes [outputs, K] of a tiny Llama: q, k, v; gate and up; head; and, an eighth of K each, out and down.
@pytest.mark.parametrize(("width", "depth"), [(64, 32), (96, 32), (97, 32), (32, 4), (32, 6)])
def test_a_product_that_breaks_at_one_of_the_models_shapes_is_found(width: int, depth: int, tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    backend = ReferenceBackend()
    backend.matmul = breaks(depth, width)
    load_model(open_model(tmp_path), backend)
    assert isinstance(backend.matmul, TiledMatmul) and "/tiled/" in backend.numerics_id


def test_experts_too(tmp_path: Path) -> None:
    save_tiny("mixtral", 0, tmp_path)
    for width, depth in ((6, 32), (96, 32), (32, 6)):
        backend = ReferenceBackend()
        backend.matmul = breaks(depth, width)
        load_model(open_model(tmp_path), backend)
        assert isinstance(backend.matmul, TiledMatmul), (width, depth)


def test_where_no_way_holds_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("llama", 0, tmp_path)
    monkeypatch.setattr(TiledMatmul, "__call__", lambda self, x, weight: breaks(32, 96)(x, weight))
    backend = ReferenceBackend()
    backend.matmul = breaks(32, 96)
    with pytest.raises(ConfigError, match=r"products of a column-parallel matrix \[96, 32\] change with .* --exact off"):
        load_model(open_model(tmp_path), backend)


def test_a_loaded_model_keeps_its_order_of_summation(tmp_path: Path) -> None:
    """Another model, for which that order does not hold, needs a backend of its own."""
    save_tiny("gpt2", 0, tmp_path / "first")
    save_tiny("llama", 0, tmp_path / "second")
    backend = ReferenceBackend()
    backend.matmul = breaks(32, 64)
    with pytest.raises(ConfigError):
        load_model(open_model(tmp_path / "first"), backend)
        load_model(open_model(tmp_path / "second"), backend)
    assert not isinstance(backend.matmul, TiledMatmul)


@pytest.mark.parametrize("product", ["_product_keys", "_product_values"])
def test_attention_whose_products_depend_on_their_company_is_refused(product: str, tmp_path: Path, monkeypatch) -> None:
    save_tiny("llama", 0, tmp_path)
    right = getattr(attention_room, product)

    def wrong(x: torch.Tensor, cache: torch.Tensor, group) -> torch.Tensor:
        out = right(x, cache, group)
        return torch.nextafter(out, torch.full_like(out, 9e9)) if x.shape[0] > 6 else out  # from 7 work items on

    monkeypatch.setattr(attention_room, product, wrong)
    with pytest.raises(ConfigError, match="attention of 4 heads of 8 channels over 2 key-value heads"):
        load_model(open_model(tmp_path), ReferenceBackend())


def test_who_gave_up_exactness_is_not_asked(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    backend = ReferenceBackend(exact=False)
    backend.matmul = breaks(32, 96)
    assert load_model(open_model(tmp_path), backend)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_products_of_every_family_are_tried(name: str, tmp_path: Path) -> None:
    save_tiny(name, 0, tmp_path)
    config: ModelConfig = open_model(tmp_path).config
    tried = {(p.n, p.k, p.tree) for p in probe.operations(config) if isinstance(p, probe.Product)}
    needed = {(config.vocab_size, config.embedding_size or config.hidden_size, False)}
    for module in empty_model(config, ReferenceBackend(exact=False)).modules():
        if type(module).__name__ in ("ColumnLinear", "RowLinear"):
            needed.add((*module.weight.shape, type(module).__name__ == "RowLinear"))
        elif type(module).__name__ == "ExpertWeights":
            needed |= {(*module.up.shape[1:], False), (*module.down.shape[1:], True)}
    assert tried == needed


def test_the_numerics_id_names_the_library_and_what_it_dispatched_to() -> None:
    parts = ReferenceBackend().numerics_id.split("/")
    assert parts[0] == "reference-3"
    assert f"torch-{torch.__version__}" in parts and torch.backends.cpu.get_cpu_capability() in parts
