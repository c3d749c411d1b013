"""Rotary tables: the nearest float32 of what they should be, by arithmetic that is the same on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from brigade.backends.registry import get_backend
from brigade.checkpoint.load import load_model, open_model
from brigade.config import RopeConfig
from brigade.errors import UserError
from brigade.model.rope import RopeTable
from tests.model.tiny_models import LONGROPE, save_tiny

mp = pytest.importorskip("mpmath").mp.clone()
mp.prec = 160

FACTORS = tuple(1.0 + i / 7 for i in range(32))
# The settings as `transformers` reads them, beside ours. Heads of 64 channels, 8192 positions.
ROPES: dict[str, tuple[RopeConfig, dict]] = {
    "plain": (RopeConfig(), {}),
    "plain, theta of Llama 3": (RopeConfig(theta=500000.0), {"rope_theta": 500000.0}),
    "linear": (RopeConfig(scaling="linear", factor=3.0), {"rope_type": "linear", "factor": 3.0}),
    "llama3": (
        RopeConfig(theta=500000.0, scaling="llama3", factor=8.0, original_positions=1024),
        {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 1024},
    ),
    "yarn": (
        RopeConfig(scaling="yarn", factor=8.0, original_positions=1024, attention_factor=0.1 * math.log(8.0) + 1.0),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024},
    ),
    "longrope": (
        RopeConfig(
            scaling="longrope", original_positions=4096, long_factors=FACTORS, short_factors=FACTORS,
            attention_factor=math.sqrt(1 + math.log(2) / math.log(4096)),
        ),
        {"rope_type": "longrope", "long_factor": list(FACTORS), "short_factor": list(FACTORS),
         "original_max_position_embeddings": 4096},
    ),
}  # fmt: skip
HASHES = {
    "plain": "982e3f7df94e5279",
    "plain, theta of Llama 3": "d2b56da0d0174f40",
    "linear": "4be73b34ef78cab0",
    "llama3": "c7385d41a443b116",
    "yarn": "e935fa6d7290d913",
    "longrope": "e7dbedc3947cae2f",
}  # fmt: skip


def table(rope: RopeConfig, length: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    made = RopeTable(rope, length)
    return made.cos.numpy(), made.sin.numpy()


def their_frequencies(settings: dict) -> tuple[np.ndarray, float]:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_type": "default", "rope_theta": 10000.0, **settings}
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=8192, rope_parameters=given)
    if given["rope_type"] == "default":
        rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        return rotary.inv_freq.numpy(), 1.0
    frequencies, factor = ROPE_INIT_FUNCTIONS[given["rope_type"]](config, seq_len=8192)
    return frequencies.numpy(), factor


@pytest.mark.parametrize("name", ROPES)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    """But for the last bit of theirs, which is a library's: where position 1 has turned, to float32."""
    from brigade.model.rope import inverse_frequencies

    theirs, factor = their_frequencies(ROPES[name][1])
    ours = inverse_frequencies(ROPES[name][0], 8192)
    assert np.abs(ours / theirs - 1).max() < 4e-7
    assert abs(factor - ROPES[name][0].attention_factor) < 1e-6


def test_a_plain_table_is_exact_to_the_last_bit() -> None:
    """Every step rounded to the nearest float32: the power, its inverse, the angle, and cos and sin of that angle."""
    length, generator = 131072, np.random.default_rng(0)
    cos, sin = table(RopeConfig(theta=500000.0, rotary_dim=128), length)
    worst = 0.0
    for position, pair in zip(generator.integers(0, length, 4000), generator.integers(0, 64, 4000), strict=True):
        exponent = np.float32(2 * pair) / np.float32(128)
        frequency = np.float32(1) / np.float32(float(mp.mpf(500000) ** mp.mpf(float(exponent))))
        angle = mp.mpf(float(np.float32(position) * frequency))
        for got, exact in ((cos, mp.cos(angle)), (sin, mp.sin(angle))):
            value = got[position, pair]
            worst = max(worst, abs(float((mp.mpf(float(value)) - exact) / mp.mpf(float(np.spacing(abs(value)))))))
    assert worst < 0.5 + 1e-6


def test_angles_next_to_whole_quarter_turns() -> None:
    """Where cos or sin is nearly 0, an error of the angle would show most."""
    from brigade.model.elementary import cos_sin

    turns = np.arange(1, 5_000_000, 997, dtype=np.float64) * (math.pi / 2)
    for angle in turns.astype(np.float32)[:4000]:
        values = cos_sin(2, np.array([angle], np.float32))
        for value, exact in zip(
            (v[1, 0] for v in values), (mp.cos(mp.mpf(float(angle))), mp.sin(mp.mpf(float(angle)))), strict=True
        ):
            assert abs(float((mp.mpf(float(value)) - exact) / mp.mpf(float(np.spacing(abs(value)))))) < 0.5 + 1e-6


@pytest.mark.parametrize("base", [1.5, 10.0, 10000.0, 500000.0, 1e6, 1e12])
def test_powers_and_logarithms(base: float) -> None:
    from brigade.model.elementary import log, power

    exponents = np.arange(0, 128, 2).astype(np.float32) / np.float32(128)
    for exponent, value in zip(exponents, power(base, exponents), strict=True):
        assert abs(float(mp.mpf(float(value)) / mp.mpf(base) ** mp.mpf(float(exponent)) - 1)) < 1e-14
    assert abs(float(mp.mpf(log(base)) / mp.log(mp.mpf(base)) - 1)) < 1e-15


@pytest.mark.parametrize("name", ROPES)
def test_no_function_of_a_library_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_, **__):
        raise AssertionError("a library's function, whose last bit may differ between machines")

    for owner in (torch, torch.Tensor):
        for function in ("cos", "sin", "pow", "exp", "log", "__pow__", "__rpow__"):
            monkeypatch.setattr(owner, function, forbidden, raising=False)
    for owner in (math, np):
        for function in ("cos", "sin", "pow", "power", "exp", "log", "log2", "exp2", "float_power"):
            monkeypatch.setattr(owner, function, forbidden, raising=False)
    table(ROPES[name][0], 300)


@pytest.mark.parametrize("name", ROPES)
def test_the_bits_are_the_same_on_every_machine(name: str) -> None:
    """One hash for all processors, threads and versions of libraries."""
    bits = b"".join(part.tobytes() for part in table(ROPES[name][0], 20000))
    assert hashlib.sha256(bits).hexdigest()[:16] == HASHES[name]


def longrope(folder: Path, max_length: int | None, backend: str = "reference"):
    """A tiny model first trained with 32 positions, made for 128."""
    save_tiny("phi3_longrope", 0, folder, original_max_position_embeddings=32)
    return load_model(open_model(folder), get_backend(backend), max_length=max_length)


@pytest.mark.parametrize(("max_length", "factors"), [(None, "long"), (128, "long"), (33, "long"), (32, "short"), (7, "short")])
def test_longrope_factors_are_chosen_by_the_length_a_model_is_loaded_for(
    max_length: int | None, factors: str, tmp_path: Path
) -> None:
    model = longrope(tmp_path, max_length)
    ((rope, made),) = model.rope_tables().items()
    exponents = [0.0, 0.25, 0.5, 0.75]
    frequencies = [1 / (f * 10000.0**e) for f, e in zip(LONGROPE[f"{factors}_factor"], exponents, strict=True)]
    assert torch.allclose(made.sin[1] / made.cos[1], torch.tensor(frequencies).tan(), rtol=1e-5)
    assert model.config.variant(max_length or 128) == f"longrope-{factors}"


def test_the_numerics_id_says_which(tmp_path: Path) -> None:
    from brigade.api.llm import LLM

    longrope(tmp_path, None)
    for max_length, factors in ((32, "short"), (33, "long")):
        assert LLM(tmp_path, max_model_len=max_length, kv_blocks=2).numerics_id.endswith(f"/longrope-{factors}")
    assert "longrope" not in LLM(kv_blocks=2).numerics_id


def refusal(folder: Path, **changes) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError) as refused:
        open_model(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "default", "factor": 2.0}, "'factor'"),
        ({"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0}, "'low_freq_factor'"),
        ({"rope_type": "yarn", "factor": 2.0, "finetuned": True}, "'finetuned'"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4, "long_mscale": 1.2}, "'long_mscale'"),
        ({"rope_type": "linear"}, "'factor'"),
        (
            {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64},
            "'high_freq_factor'",
        ),
        ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, "needs original_max_position"),
        ({"rope_type": "linear", "factor": "2"}, "factor to '2'"),
        ({"rope_type": "linear", "factor": 0}, "factor to 0"),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0] * 4},
            "short_factors has 3 numbers; 4 are needed",
        ),
        ({"rope_type": ["linear"]}, "rope_type"),
        ("linear", "rope_parameters"),
    ],
)
def test_what_rotary_settings_cannot_be_is_refused_by_name(rope, words: str, tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    assert words in refusal(tmp_path, rope_parameters=rope)


def test_yarn_follows_its_further_keys(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 500.0}
    file = tmp_path / "config.json"
    for further in ({}, {"mscale": 0.7, "mscale_all_dim": 1.2}, {"truncate": False}, {"beta_fast": 4, "attention_factor": 1.3}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_parameters": yarn | further}))
        import transformers
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        from brigade.model.rope import inverse_frequencies

        theirs, factor = ROPE_INIT_FUNCTIONS["yarn"](transformers.AutoConfig.from_pretrained(tmp_path))
        ours = open_model(tmp_path).config.rope
        assert ours is not None and abs(ours.attention_factor - factor) < 1e-6
        assert np.abs(inverse_frequencies(ours, 128) / theirs.numpy() - 1).max() < 4e-7
