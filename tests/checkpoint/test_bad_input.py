"""A checkpoint that is not whole, not safe, or not what it says is refused in one line that names it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brigade.backends.registry import get_backend
from brigade.checkpoint.load import load_model, open_model
from brigade.checkpoint.safetensors_folder import read_header
from brigade.errors import UserError
from tests.model.tiny_models import save_tiny


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def settings(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def corrupt_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[8:40] = b"\xff" * 32
    file.write_bytes(bytes(raw))


def impossible_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])


def pickle_in_disguise(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def lost_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


CASES = {
    "truncated file": (truncate, "model.safetensors is truncated"),
    "a few bytes only": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "truncated"),
    "corrupt header": (corrupt_header, "model.safetensors is corrupt"),
    "impossible header": (impossible_header, "model.safetensors is corrupt"),
    "pickle in disguise": (pickle_in_disguise, "is a pickle"),
    "pickle instead": (only_a_pickle, "pytorch_model.bin is a pickle"),
    "lost shard": (lost_shard, "model-00002-of-00002.safetensors is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no *.safetensors"),
    "missing tensor": (lambda f: rewrite(f, lambda t: t.pop("model.norm.weight")), "model.norm.weight"),
    "wrong shape": (lambda f: rewrite(f, lambda t: t.update({"model.norm.weight": torch.zeros(33)})), "[33]"),
    "wrong width": (lambda f: settings(f, intermediate_size=40), "config.json"),
    "foreign tensor": (lambda f: rewrite(f, lambda t: t.update({"visual.patch": torch.zeros(3)})), "visual.patch"),
    "quantised tensor": (
        lambda f: rewrite(f, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)})), "I8"),
    "unknown family": (lambda f: settings(f, model_type="mamba"), "'mamba'"),
    "unknown activation": (lambda f: settings(f, hidden_act="snake"), "'snake'"),
    "unknown rope": (lambda f: settings(f, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
    "quantised model": (lambda f: settings(f, quantization_config={"bits": 4}), "quantised"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "invalid JSON": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "setting missing": (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "hidden_size"),
    "heads that do not share": (lambda f: settings(f, num_key_value_heads=3), "3 key-value heads"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    damage, words = CASES[case]
    damage(tmp_path)
    with pytest.raises(UserError) as refused:
        load_model(open_model(tmp_path), get_backend("reference"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_such_model_names_the_recipes() -> None:
    with pytest.raises(UserError, match="gpt-345m"):
        open_model("no-such-model")


def test_random_weights_belong_to_recipes_alone(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    with pytest.raises(UserError, match="drop --random-weights"):
        load_model(open_model(tmp_path), get_backend("reference"), random_weights=1)
    with pytest.raises(UserError, match="give --random-weights"):
        load_model(open_model("345m"), get_backend("reference"))


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    """The first byte of a header of 128, 384, ... bytes is the one a pickle begins with."""
    for filler in range(256):
        save_file({"a" * (filler + 1): torch.zeros(1)}, tmp_path / "x.safetensors")
        if (tmp_path / "x.safetensors").read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no such header was made")
    assert read_header(tmp_path / "x.safetensors")
