"""Whatever a `config.json`, an index or a safetensors header holds, loading ends well or with one line; never with a traceback."""

from __future__ import annotations

import functools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from brigade.backends.registry import get_backend
from brigade.checkpoint.load import load_model, open_model
from brigade.errors import UserError
from tests.model.tiny_models import FAMILIES, save_tiny

BACKEND = get_backend("reference")
ROOT = Path(tempfile.mkdtemp())
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 7, 0.0, 0.5, -0.5, 1e-320, 1e308, 10**9, 2**31, 2**63, 10**400, float("nan"), float("inf")]),
    st.integers(-5, 300),
    st.floats(),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.text(max_size=6), st.sampled_from(["default", "yarn", "longrope", "gelu", "float16"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
ROPE_KEYS = (
    "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast",
    "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
    "partial_rotary_factor",
)  # fmt: skip
ROPES = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["default", "linear", "llama3", "yarn", "longrope", "su", "dynamic"])},
    optional={key: st.one_of(NUMBERS, st.lists(NUMBERS, min_size=4, max_size=4), JSON) for key in ROPE_KEYS},
)
MORE_KEYS = (
    "rope_scaling", "rope_theta", "rope_parameters", "sliding_window", "layer_types", "head_dim", "max_window_layers",
    "rotary_pct", "use_sliding_window", "sliding_window_pattern", "rope_local_base_freq", "mlp_only_layers",
    "decoder_sparse_step", "quantization_config", "partial_rotary_factor", "original_max_position_embeddings", "model_type",
    "dtype", "torch_dtype", "n_inner",
)  # fmt: skip


@functools.cache
def whole(name: str) -> Path:
    save_tiny(name, 0, ROOT / name)
    return ROOT / name


def loads_or_says_why(folder: Path) -> str | None:
    try:
        load_model(open_model(folder), BACKEND)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        return str(error)
    return None


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(FAMILIES)))
    values = json.loads((whole(name) / "config.json").read_text())
    for key in draw(st.lists(st.sampled_from(sorted({*values, *MORE_KEYS})), min_size=1, max_size=3)):
        if draw(st.booleans()) and key in ("rope_scaling", "rope_parameters"):
            values[key] = draw(ROPES)
        elif draw(st.integers(0, 5)) == 0:
            values.pop(key, None)
        else:
            values[key] = draw(st.one_of(NUMBERS, JSON))
    return name, values


@given(mutations())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_setting(changed: tuple[str, dict[str, Any]]) -> None:
    name, values = changed
    folder = ROOT / "changed"
    shutil.copytree(whole(name), folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    loads_or_says_why(folder)


@given(st.text(max_size=40) | JSON.map(json.dumps) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
@example("[" * 100_000)
@example("9" * 5000)
@example('{"model_type": ' + "[" * 100_000)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_for_settings(text: str) -> None:
    folder = ROOT / "text"
    shutil.copytree(whole("llama"), folder, dirs_exist_ok=True)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert loads_or_says_why(folder)


def with_header(raw: bytes, header: bytes) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """The bytes of a whole file with some of its header's changed, or the header's JSON with some of its values changed."""
    raw = (whole("llama") / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    if draw(st.booleans()):
        changed = bytearray(raw)
        for place in draw(st.lists(st.integers(0, 8 + length - 1), min_size=1, max_size=4)):
            changed[place] = draw(st.integers(0, 255))
        return bytes(changed)
    header = json.loads(raw[8 : 8 + length])
    for name in draw(st.lists(st.sampled_from(sorted(header)), min_size=1, max_size=2)):
        key = draw(st.sampled_from(["dtype", "shape", "data_offsets", ""]))
        value = draw(
            st.one_of(JSON, st.lists(st.integers(-100, 100_000), min_size=1, max_size=3), st.sampled_from(["F16", "I64", "BOOL"]))
        )
        if key and isinstance(header.get(name), dict):
            header[name][key] = value
        else:
            header[name] = value
    return with_header(raw, json.dumps(header).encode())


@given(files())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_header(raw: bytes) -> None:
    folder = ROOT / "header"
    shutil.copytree(whole("llama"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(raw)
    loads_or_says_why(folder)


@given(st.one_of(JSON, st.dictionaries(st.sampled_from(["weight_map", "metadata"]), JSON)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_index(index: Any) -> None:
    folder = ROOT / "index"
    shutil.copytree(whole("llama"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert loads_or_says_why(folder)


def change(folder: Path, **changes: Any) -> str | None:
    shutil.copytree(whole("llama"), folder, dirs_exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return loads_or_says_why(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads to 0; it must be an integer from 1 up"),
        ({"num_attention_heads": 64, "head_dim": None}, "num_attention_heads to 64; it must be at most hidden_size, which is 32"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers to '3'"),
        ({"num_hidden_layers": True}, "num_hidden_layers to True"),
        ({"num_hidden_layers": 1_000_000_000}, "num_layers is 1000000000; it must be an integer from 1 to 1024"),
        ({"hidden_size": 32.0}, "hidden_size to 32.0"),
        ({"hidden_size": -32}, "hidden_size to -32"),
        ({"vocab_size": 10**40}, "vocab_size to 1000"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps to '1e-5'; it must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps to nan"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings to 'no'; it must be true or false"),
        ({"hidden_act": ["silu"]}, "activation ['silu'] is not supported"),
        ({"model_type": ["llama"]}, "unknown model family ['llama']"),
        ({"rope_parameters": None, "rope_theta": "10000"}, "rope_theta to '10000'"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "linear"}}, "no 'factor'"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_rule(changes: dict, words: str, tmp_path: Path) -> None:
    said = change(tmp_path, **changes)
    assert said is not None and words in said


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"data_offsets": [0, 4]}, "lies from byte 0 to 4"),
        ({"data_offsets": [-128, 0]}, "is no number of elements or bytes"),
        ({"data_offsets": [0.0, 128.0]}, "is no number of elements or bytes"),
        ({"data_offsets": [128, 0]}, "lies from byte 128 to 0"),
        ({"data_offsets": [0, 128, 256]}, "corrupt"),
        ({"shape": [16]}, "is F32 [16]"),
        ({"shape": [True, 32]}, "is no number of elements or bytes"),
        ({"shape": [2**62, 2**62, 2**62]}, "lies from byte"),
        ({"dtype": "F128"}, "of type F128"),
    ],
)
def test_odd_places_in_a_header_are_named(described: dict, words: str, tmp_path: Path) -> None:
    shutil.copytree(whole("llama"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["model.norm.weight"] |= described
    file.write_bytes(with_header(raw, json.dumps(header).encode()))
    said = loads_or_says_why(tmp_path)
    assert said is not None and "model.safetensors is corrupt" in said and words in said


@pytest.mark.parametrize("shift", [-4, 4])
def test_tensors_that_overlap_or_leave_a_hole_are_named(shift: int, tmp_path: Path) -> None:
    """A header whose tensors all have the right lengths, and one of them lies where it should not."""
    shutil.copytree(whole("llama"), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["model.layers.1.mlp.up_proj.weight"]["data_offsets"] = [
        offset + shift for offset in header["model.layers.1.mlp.up_proj.weight"]["data_offsets"]
    ]
    file.write_bytes(with_header(raw, json.dumps(header).encode()))
    said = loads_or_says_why(tmp_path)
    assert said is not None and "begins at byte" in said and "corrupt" in said
