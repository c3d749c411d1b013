"""What a step takes beside weights and cache is known before: the plan's number is held against a process that computes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import brigade
from brigade.backends.cpu.library import find_kernels

NATIVE = find_kernels() is not None
SLACK = 4 << 20  # what libraries keep for themselves, and half-used large pages

# One full step, of two chunks that follow as many tokens. Peak memory is counted from a process that has the model, its cache in
# whole pages, and a first small step behind it.
CHILD = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from brigade.backends.base import LargestStep
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.model.gpt_model import empty_model
from brigade.backends.huge_pages import give_back
from brigade.backends.weights import Weights

torch.set_num_threads(1)
name, quant, dtype, kind, tokens = sys.argv[1:]
tokens, dtype = int(tokens), getattr(torch, dtype)
config = ModelConfig(
    "small", vocab_size=3000, num_layers=2, hidden_size=512, num_heads=8, num_kv_heads=4, head_dim=64, ffn_size=2048,
    max_positions=2048, rope=RopeConfig(rotary_dim=64), tied_head=kind == "tied",
)
if kind == "experts":
    config = replace(config, moe=MoEConfig(4, 2, expert_ffn_size=1024))

class Small(Weights):
    def take(self, name, cut=None):
        return (torch.randn(shapes[name]) / 30).to(backend.held_dtype(dtype))
    def take_part(self, name, index, cut=None):
        return self.take(name)[index]

def memory(key):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) << 10

backend = get_backend(name)
if name == "cpu":
    backend.use(1, None)
if quant != "none":
    backend.quantise(quant)
backend.hold(dtype)
model = empty_model(config, backend)
shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
said = backend.step_bytes(model, dtype, LargestStep(tokens, 2, tokens))
backend.prepare(model, Small())
give_back()  # or the step would be done in what packing has left
model.requires_grad_(False)
blocks = tokens // 64
cache = KVCache.allocate(2, 2 * blocks, 4, 64, 64, dtype)
for tensor in cache.keys + cache.values:
    tensor.fill_(0.0)
tables = [list(range(blocks)), list(range(blocks, 2 * blocks))]

def step(first, last, wanted):
    spans = [Span([i % 100 for i in range(first, last)], first, table, wanted) for table in tables]
    with torch.inference_mode():
        return model(Batch(tuple(spans)), cache)

step(0, 1, Wanted.LAST)
for first in range(0, tokens // 2, 32):
    step(first, first + 32, Wanted.NONE)
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
step(tokens // 2, tokens, Wanted.LAST)
print(json.dumps({"said": said, "took": memory("VmHWM") - before}))
"""
CASES = [("reference", "none", "float32", "tied", 512)]
SLOW = [("reference", "none", "bfloat16", "dense", 512), ("reference", "none", "float32", "experts", 512)]
if NATIVE:
    SLOW += CASES
    CASES = [("cpu", "none", "bfloat16", "tied", 512)]
    SLOW += [("cpu", quant, "bfloat16", kind, 1024) for quant in ("none", "int8", "int4") for kind in ("dense", "experts")]


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_a_step_takes_what_the_plan_says(case: tuple) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say a process's peak memory")
    environment = os.environ | {"PYTHONPATH": str(Path(brigade.__file__).parents[1]), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", CHILD, *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0.6 * found["said"] - SLACK <= found["took"] <= found["said"] + SLACK, found
    assert found["said"] > 2 * SLACK, "too small to show anything"
