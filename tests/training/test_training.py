"""The training step learns, its gradients are right, and the shipped model is what it is said to be."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest
import torch

from brigade.backends.registry import get_backend
from brigade.backends.training import TrainingBackend
from brigade.batch import Batch, Span
from brigade.checkpoint.load import EMBEDDED, load_model, open_model
from brigade.errors import ConfigError
from brigade.model.gpt_model import GPTModel
from brigade.training.step import TrainingConfig, initialise, loss_of, make_optimizer, train_step
from examples.train_mini.data import SourceFile, fingerprint, is_held_out, read_sources
from examples.train_mini.plot import draw
from tests.engine.fakes import CONFIG
from tests.model.tiny_models import save_tiny


def plain_config():
    import dataclasses

    return dataclasses.replace(CONFIG, sliding_window=None, windowed_layers=())


def test_steps_lower_the_loss() -> None:
    model = GPTModel(plain_config(), TrainingBackend())
    initialise(model, 0)
    config = TrainingConfig(steps=60, warmup=5, peak_rate=1e-2)
    optimizer = make_optimizer(model, config)
    ids = torch.arange(4 * 33).view(4, 33) % 71
    losses = [train_step(model, optimizer, ids, step, config) for step in range(60)]
    assert abs(losses[0] - math.log(71)) < 0.2
    assert losses[-1] < 0.2


def test_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = save_tiny("llama", 0, tmp_path).train()
    model = load_model(open_model(tmp_path), TrainingBackend()).requires_grad_(True)
    ids = torch.randint(0, 97, (3, 21), generator=torch.Generator().manual_seed(0))
    loss = loss_of(model, ids)
    expected = theirs(ids, labels=ids).loss
    assert torch.allclose(loss, expected, atol=1e-5)
    loss.backward()
    expected.backward()
    layer = theirs.model.layers[1]
    assert torch.allclose(model.layers[1].mlp.down.weight.grad, layer.mlp.down_proj.weight.grad, atol=1e-5)
    qkv = torch.cat([getattr(layer.self_attn, f"{x}_proj").weight.grad for x in "qkv"])
    assert torch.allclose(model.layers[1].attention.qkv.weight.grad, qkv, atol=1e-5)
    assert torch.allclose(model.embedding.word.grad, theirs.model.embed_tokens.weight.grad, atol=1e-5)


def test_the_rate_warms_up_and_falls() -> None:
    config = TrainingConfig(steps=100, warmup=10)
    rates = [config.rate(step) for step in range(100)]
    assert max(rates) == rates[9] == config.peak_rate or abs(max(rates) - config.peak_rate) < 1e-9
    assert rates[0] < rates[5] < rates[9] and rates[10] > rates[50] > rates[99] >= config.final_rate
    with pytest.raises(ConfigError, match="warmup is 100"):
        TrainingConfig(steps=100)


def test_the_training_backend_refuses_what_it_cannot_do() -> None:
    model = GPTModel(CONFIG, TrainingBackend())
    with pytest.raises(ConfigError, match="one length"):
        model(Batch((Span([1, 2], 0, []), Span([1], 0, []))))
    with pytest.raises(ConfigError, match="window"):
        model(Batch((Span([1, 2], 0, []),)))


def test_the_split_is_by_name_and_disjoint(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "no.py").write_text("no = 1\n")
    (tmp_path / "copy.py").write_text("x = 0\n")
    (tmp_path / "latin.py").write_bytes(b"# \xff\n")
    train, held_out = read_sources(tmp_path)
    names = {f.name for f in train}, {f.name for f in held_out}
    assert not names[0] & names[1] and len(names[0] | names[1]) == 200
    assert all(is_held_out(name) for name in names[1]) and not any(is_held_out(name) for name in names[0])
    assert fingerprint(train) == fingerprint(read_sources(tmp_path)[0]) != fingerprint(held_out)


def test_the_loss_curve_is_a_picture() -> None:
    from xml.etree import ElementTree

    assert ElementTree.fromstring(draw([3.0, 2.0, 1.5, 1.2])).tag.endswith("svg")


def test_the_shipped_model_is_small() -> None:
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 12_000_000
    assert 5.5e6 < load_model(open_model(), get_backend("reference")).num_parameters < 6.5e6


def test_the_shipped_model_has_learned() -> None:
    """Held-out modules of whatever Python runs this: far below a uniform guess, and near what was recorded."""
    from brigade import LLM
    from examples.train_mini.evaluate import file_bits

    llm = LLM(kv_blocks=32, prefix_cache=False, max_step_tokens=1024, prefill_chunk=1024)
    _, held_out = read_sources()
    files = [SourceFile(f.name, f.text[:1000]) for f in held_out[:12]]
    bits = sum(file_bits(llm, file, llm.tokenizer.eos_ids[0]) for file in files)
    recorded = json.loads((EMBEDDED / "training.json").read_text())["bits_per_byte"]
    assert bits / sum(len(f.text.encode()) for f in files) < recorded + 0.6


def test_a_completion_looks_like_python() -> None:
    from brigade import LLM, SamplingParams

    prompt = "def fibonacci(n):"
    text = prompt + LLM(kv_blocks=16).generate(prompt, SamplingParams(temperature=0, max_tokens=96))[0].text
    lines = text.splitlines()
    assert lines[1].startswith("    ")
    parsed = [n for n in range(2, len(lines) + 1) if _parses("\n".join(lines[:n]))]
    assert parsed, f"no beginning of it is Python:\n{text}"


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
