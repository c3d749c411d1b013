"""Each rank asks for the bytes of its share, and for what every rank holds whole. Nothing else.

Whole on every rank of a stage: norms, the biases of row-parallel matrices, routers, the position table (first stage alone) and a
projection of the word vectors. Alike on several ranks: key-value heads, where there are fewer of them than ranks. Twice in a
pipeline: a tied word table, whose rows the last stage needs for its logits. A vocabulary is cut at multiples of 32 rows where it is
large enough, so its shares differ by up to 32 rows.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from brigade.backends.registry import get_backend
from brigade.backends.weights import place_all
from brigade.checkpoint.families import gpt2, gpt_neox
from brigade.checkpoint.load import open_model, open_weights
from brigade.checkpoint.operations import NameMap, inverted, take, with_prefix
from brigade.checkpoint.random_weights import RandomTensors
from brigade.checkpoint.safetensors_folder import SafetensorsFolder
from brigade.checkpoint.weights import Held, SourceWeights
from brigade.config import ModelConfig
from brigade.mesh import Part, vocabulary_borders
from brigade.model.gpt_model import GPTModel, empty_model
from brigade.parallel.degrees import make_mesh
from tests.model.tiny_models import save_tiny

BACKEND = get_backend("reference")
HELD = Held(BACKEND, torch.float32)
WHOLE = ("norm", "attention.out.bias", "mlp.down.bias", "router", "embedding.position", "project")
LAYOUTS = [(tp, pp) for tp in (1, 2, 4, 8) for pp in (1, 2)]


def shapes_of(model: GPTModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def share(config: ModelConfig, name: str, shape: tuple[int, ...], part: Part) -> float:
    """Elements of a parameter that a rank needs, by the rules above."""
    size = math.prod(shape)
    if any(word in name for word in WHOLE):
        return size
    if name.endswith(("word", "head.weight", "head.bias")):
        borders = vocabulary_borders(config.vocab_size, part.tp)
        return size // shape[0] * (borders[part.tp_rank + 1] - borders[part.tp_rank])
    if "qkv" in name:
        heads = config.num_heads / part.tp + 2 * max(config.num_kv_heads / part.tp, 1)
        return size // shape[0] * heads * config.head_dim
    return size / part.tp


def expected(config: ModelConfig, part: Part, shapes: dict[str, tuple[int, ...]]) -> float:
    total = 0.0
    for name, shape in shapes.items():
        here = part.has(name)
        if name == "embedding.word":
            here = part.is_first or (part.is_last and config.tied_head)
        if name.startswith("final_norm"):
            here = part.is_last
        total += share(config, name, shape, part) * here
    return total


def header_only(config: ModelConfig, table: NameMap, folder: Path) -> SafetensorsFolder:
    """A checkpoint in bfloat16 of which there is the header alone: behind it the file is a hole."""
    meta = dict(empty_model(config, BACKEND).named_parameters())
    header, at = {}, 0
    for name, tensor in inverted(table, meta):
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at := at + 2 * tensor.numel()]}
    raw = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    os.truncate(path, 8 + len(raw) + at)
    assert path.stat().st_blocks * 512 < 1 << 20 < at
    return SafetensorsFolder(folder)


@pytest.mark.parametrize(("family", "layouts"), [(gpt2, LAYOUTS), (gpt_neox, LAYOUTS[::3])], ids=["turned", "head by head"])
def test_of_the_67b(family, layouts: list[tuple[int, int]], tmp_path: Path) -> None:
    config = open_model("gpt-6.7b").config
    table = with_prefix(family.names(config), family.FAMILIES[0].prefix)
    table.setdefault("embedding.position", take("positions"))  # which a GPT-NeoX does not have
    source, shapes = header_only(config, table, tmp_path), shapes_of(empty_model(config, BACKEND))
    weights = SourceWeights(source, table, shapes, HELD)
    hidden, layers, words, positions = 4096, 32, 51200 * 4096, 1024 * 4096
    for tp, pp in layouts:
        mesh, total = make_mesh(config, tp, pp), 0
        for rank in range(mesh.world):
            part = mesh.part(rank, layers)
            held = empty_model(config, BACKEND, held=part)
            asked = sum(weights.bytes_of(name, held.cuts.get(name)) for name, _ in held.named_parameters())
            # In numbers: of a layer 12 H^2 + 7 H are shared, and 6 H (norms, two biases) are whole.
            own = layers // pp * ((12 * hidden**2 + 7 * hidden) // tp + 6 * hidden)
            own += part.is_first * positions + part.is_last * 2 * hidden
            own += words // tp if part.is_first or part.is_last else 0
            assert asked == 2 * own == 2 * expected(config, part, shapes), (tp, pp, rank)
            total += asked
        again = (tp - 1) * (layers * 6 * hidden + positions + 2 * hidden) + (pp - 1) * words
        assert total == sum(entry.bytes for entry in source.entries.values()) + 2 * again
    assert source.asked == 0  # nothing was read


WIDE = {"hidden_size": 64, "num_attention_heads": 8}
FOLDERS = {
    "gpt2": {**WIDE, "n_embd": 64, "n_head": 8},
    "gpt_neox": {**WIDE, "intermediate_size": 64},
    "llama": {**WIDE, "intermediate_size": 64, "head_dim": 8, "num_key_value_heads": 2},
    "mixtral": {**WIDE, "intermediate_size": 64, "head_dim": 8, "num_key_value_heads": 8},
    "opt": {**WIDE, "ffn_dim": 64, "word_embed_proj_dim": 16},
    "phi3": {**WIDE, "intermediate_size": 64, "num_key_value_heads": 4},
}


@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) if tied == (name in ("gpt2", "llama", "opt")) else pytest.param(name, tied, marks=pytest.mark.slow)
     for name in FOLDERS for tied in (True, False)],
)  # fmt: skip
def test_of_small_folders_and_the_shares_are_those_of_the_whole(name: str, tied: bool, tmp_path: Path) -> None:
    save_tiny(name, 0, tmp_path, tied, vocab_size=601, **FOLDERS[name])
    model = open_model(tmp_path)
    config = model.config
    files, table = open_weights(model)
    network = empty_model(config, BACKEND)
    shapes = shapes_of(network)
    place_all(network, SourceWeights(files, table, shapes, HELD), {})
    whole = dict(network.named_parameters())
    assert files.asked == sum(entry.bytes for entry in files.entries.values())
    for tp, pp in LAYOUTS:
        mesh = make_mesh(config, tp, pp)
        for rank in range(mesh.world):
            held, before = empty_model(config, BACKEND, held=mesh.part(rank, config.num_layers)), files.asked
            place_all(held, SourceWeights(files, table, shapes, HELD), held.cuts)
            for own, parameter in held.named_parameters():
                cut = held.cuts.get(own)
                assert torch.equal(parameter, whole[own] if cut is None else cut.of(whole[own])), (own, tp, rank)
            asked, held_bytes = files.asked - before, sum(parameter.nbytes for parameter in held.parameters())
            assert asked == held_bytes == 4 * expected(config, held.held, shapes), (tp, pp, rank)


def test_random_weights_are_made_for_a_share_alone() -> None:
    config = open_model("gpt-345m").config
    shapes = shapes_of(empty_model(config, BACKEND))
    source = RandomTensors(3, 0.0, shapes)
    weights = SourceWeights(source, {name: take(name) for name in shapes}, shapes, HELD)
    part = make_mesh(config, 8, 1).part(5, config.num_layers)
    cuts = empty_model(config, BACKEND, held=part).cuts
    for name in ("layers.3.attention.qkv.weight", "layers.3.mlp.down.weight", "layers.3.mlp.up.bias", "layers.3.mlp.down.bias"):
        whole, before, cut = weights.take(name), source.asked, cuts.get(name)
        found = weights.take(name, cut)
        assert torch.equal(found, whole if cut is None else cut.of(whole))
        assert source.asked - before == found.nbytes == whole.nbytes // (1 if cut is None else 8)
