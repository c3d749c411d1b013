"""Loading holds the packed model, and beside it no more than a few tensors at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import brigade
from brigade.backends.cpu.library import find_kernels

# The peak may be 1.1 times the packed model, three of the checkpoint's largest tensors in float32, and this: what the first
# load in a process costs whatever the model (rotary tables, the kernels' threads, half-used large pages and heap).
CONSTANT = 16 << 20
SHAPE = {"vocab_size": 2000, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1408, "num_hidden_layers": 8}
MOE = {**SHAPE, "intermediate_size": 256, "num_local_experts": 8, "num_experts_per_tok": 2}
COMMON = {"max_position_embeddings": 256, "tie_word_embeddings": False, "hidden_act": "silu"}

# Loads a tiny model first, so that what is loaded or begun once in a process is there, then measures the peak of the large one.
CHILD = """
import json, sys
from pathlib import Path
import torch
from brigade.backends.registry import get_backend
from brigade.checkpoint.load import load_model, open_model

torch.set_num_threads(1)
name, quant, dtype, seed, small, large = sys.argv[1:]

def load(source):
    backend = get_backend(name)
    if quant != "none":
        backend.quantise(quant)
    return load_model(open_model(source), backend, getattr(torch, dtype), int(seed) if seed else None)

def memory(key):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) << 10

load(small)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS")
model = load(large)
if name == "cpu":
    packed = sum(m.nbytes for m in model.packed.matrices.values()) + sum(t.nbytes for t in model.packed.tensors.values())
else:
    packed = sum(p.nbytes for p in model.parameters())
print(json.dumps({"peak": memory("VmHWM") - before, "packed": packed}))
"""


def llama_tensors(shape: dict, experts: bool) -> dict[str, torch.Tensor]:
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    generator = torch.Generator().manual_seed(0)

    def matrix(*size: int) -> torch.Tensor:
        return torch.randint(-9, 10, size, dtype=torch.int8, generator=generator).to(torch.bfloat16) / 64

    tensors = {name: matrix(shape["vocab_size"], hidden) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors["model.norm.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    for i in range(shape["num_hidden_layers"]):
        at = f"model.layers.{i}"
        tensors |= {f"{at}.{norm}_layernorm.weight": torch.ones(hidden) for norm in ("input", "post_attention")}
        tensors |= {f"{at}.self_attn.{x}_proj.weight": matrix(hidden, hidden) for x in "qkvo"}
        if experts:
            tensors[f"{at}.block_sparse_moe.gate.weight"] = matrix(shape["num_local_experts"], hidden)
            for e in range(shape["num_local_experts"]):
                each = f"{at}.block_sparse_moe.experts.{e}"
                tensors |= {f"{each}.w1.weight": matrix(ffn, hidden), f"{each}.w3.weight": matrix(ffn, hidden)}
                tensors[f"{each}.w2.weight"] = matrix(hidden, ffn)
        else:
            tensors |= {f"{at}.mlp.{x}_proj.weight": matrix(ffn, hidden) for x in ("gate", "up")}
            tensors[f"{at}.mlp.down_proj.weight"] = matrix(hidden, ffn)
    return tensors


def save(folder: Path, shape: dict, experts: bool) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mixtral" if experts else "llama", "dtype": "bfloat16", **COMMON, **shape})
    )
    save_file(llama_tensors(shape, experts), folder / "model.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny = {"vocab_size": 32, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    for name, shape, experts in (("dense", SHAPE, False), ("experts", MOE, True)):
        save(root / name, shape, experts)
        save(root / f"{name}-small", shape | tiny, experts)
    for name, layers in (("recipe", 4), ("recipe-small", 1)):
        (root / f"{name}.yaml").write_text(
            f"num_layers: {layers}\nhidden_size: 512\nnum_heads: 8\nnum_kv_heads: 8\nhead_dim: 64\nffn_size: 1408\n"
            "vocab_size: 2000\nmax_positions: 256\nrope: {rotary_dim: 64}\n"
        )
    return root


def hold(small: Path, large: Path, backend: str, quant: str, dtype: str, largest: int, seed: str = "") -> None:
    """`largest`: elements of the checkpoint's largest tensor."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say a process's peak memory")
    command = [sys.executable, "-c", CHILD, backend, quant, dtype, seed, str(small), str(large)]
    environment = os.environ | {"PYTHONPATH": str(Path(brigade.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=large.parent, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["packed"] > 10 << 20, "too small to show anything"
    allowed = 1.1 * found["packed"] + 3 * 4 * largest + CONSTANT
    assert 0.7 * found["packed"] <= found["peak"] <= allowed, {name: f"{size / 2**20:.1f} MiB" for name, size in found.items()}


LARGEST = SHAPE["vocab_size"] * SHAPE["hidden_size"]
NATIVE = find_kernels() is not None
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("backend", "quant"),
    [pytest.param("reference", "none", marks=slow)]
    + [pytest.param("cpu", "none", marks=slow), ("cpu", "int8"), pytest.param("cpu", "int8-weight", marks=slow), ("cpu", "int4")]
    * NATIVE,
)
def test_a_folder(backend: str, quant: str, folders: Path) -> None:
    hold(folders / "dense-small", folders / "dense", backend, quant, "bfloat16", LARGEST)


@pytest.mark.parametrize(
    ("backend", "quant"),
    [pytest.param("reference", "none", marks=slow)] + [pytest.param("cpu", "none", marks=slow), ("cpu", "int8")] * NATIVE,
)
def test_a_folder_of_experts(backend: str, quant: str, folders: Path) -> None:
    hold(folders / "experts-small", folders / "experts", backend, quant, "bfloat16", LARGEST)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=slow), "bfloat16"])
def test_random_weights(dtype: str, folders: Path) -> None:
    backend = "cpu" if NATIVE else "reference"
    hold(folders / "recipe-small.yaml", folders / "recipe.yaml", backend, "none", dtype, LARGEST, seed="1")
