"""The four doors: a backend, a sampling rule, a model family and a sampling parameter of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brigade.api.llm import LLM
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import ConfigError, RequestError
from examples import backend, model_family, sampling_parameter, sampling_rule
from tests.examples.toy_folder import toy_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(
        "num_layers: 2\nhidden_size: 32\nnum_heads: 4\nnum_kv_heads: 4\nhead_dim: 8\nffn_size: 64\nvocab_size: 61\n"
        "max_positions: 128\nrope: {rotary_dim: 8}\n"
    )
    return file


def test_a_backend_of_your_own(recipe: Path) -> None:
    asked = {"random_weights": 1, "kv_blocks": 4}
    own, reference = LLM(recipe, backend="counting", **asked), LLM(recipe, backend="reference", **asked)
    assert torch.equal(own.logits([[1, 2, 3]])[0], reference.logits([[1, 2, 3]])[0])
    assert isinstance(own.backend, backend.CountingBackend) and own.backend.operations > 0
    with pytest.raises(ConfigError, match="exists already"):
        backend.register_backend("counting", backend.CountingBackend)


def test_a_sampling_rule_of_your_own(recipe: Path) -> None:
    llm = LLM(recipe, random_weights=1, kv_blocks=8, sampler=Sampler(sampling_rule.GumbelMax()))
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=20)
    alone = llm.generate([[1, 2]], params)[0].token_ids
    assert llm.generate([[5], [1, 2], [7, 8]], params)[1].token_ids == alone
    assert llm.generate([[1, 2]], SamplingParams(temperature=0.0, max_tokens=20))[0].token_ids != alone


def test_the_gumbel_rule_draws_the_same_distribution() -> None:
    from tests.engine.sampling.test_sampler import Row

    row = torch.tensor([[0.5, 1.5, -1.0, 0.0, 1.0]])
    rows = [Row(SamplingParams(), seed=9, position=i) for i in range(3000)]
    sampled = Sampler(sampling_rule.GumbelMax()).sample(row.expand(3000, -1), rows)
    counts = torch.bincount(torch.tensor([s.token_id for s in sampled]), minlength=5)
    expected = torch.softmax(row[0], -1) * 3000
    assert float(((counts - expected) ** 2 / expected).sum()) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_a_sampling_parameter_of_your_own(recipe: Path) -> None:
    llm = LLM(recipe, random_weights=1, kv_blocks=8)
    ids = llm.generate([[1, 2]], SamplingParams(temperature=0.0, max_tokens=30, extra={"no_repeat": 3}))[0].token_ids
    assert all(ids[i] not in ids[max(i - 3, 0) : i] for i in range(len(ids)))
    with pytest.raises(RequestError, match="no_repeat is 0; it must be an integer from 1 to 64"):
        SamplingParams(extra={"no_repeat": 0})
    with pytest.raises(RequestError, match="registered: .*no_repeat"):
        SamplingParams(extra={"no_repeats": 3})
    with pytest.raises(ConfigError, match="exists already"):
        sampling_parameter.register_parameter("no_repeat", sampling_parameter.check, sampling_parameter.process)


def test_a_sampling_parameter_of_your_own_in_a_prompts_file(tmp_path: Path) -> None:
    """`--import` comes before anything that is read."""
    (tmp_path / "prompts.jsonl").write_text('{"text": "def f(", "extra": {"no_repeat": 3}}\n')
    command = [sys.executable, "-m", "brigade.cli.main", "generate", "--prompts-file", str(tmp_path / "prompts.jsonl")]
    command += ["--temperature", "0", "--max-tokens", "30", "--json", str(tmp_path / "out.json")]
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run(
        [*command, "--import", "sampling_parameter"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (said,) = json.loads((tmp_path / "out.json").read_text())["requests"].values()
    ids = said["samples"][0]["token_ids"]
    assert len(ids) == 30 and all(ids[i] not in ids[max(i - 3, 0) : i] for i in range(len(ids)))


def test_a_family_of_your_own(tmp_path: Path) -> None:
    toy_folder(tmp_path, 32)
    output = LLM(tmp_path, kv_blocks=4).generate([[1, 2, 3]], SamplingParams(max_tokens=5, temperature=0.0))[0]
    assert len(output.token_ids) == 5
    with pytest.raises(ConfigError, match="belongs to family 'toy'"):
        model_family.register_family(model_family.TOY)


def test_the_guide_shows_the_example_as_it_is() -> None:
    root = Path(__file__).parents[2]
    guide, example = (root / "docs/add_a_model.md").read_text(), (root / "examples/model_family.py").read_text()
    code = example[example.index("def translate") : example.index("def main")].strip()
    assert code in guide
    phi3 = (root / "brigade/checkpoint/families/phi3.py").read_text()
    assert phi3[phi3.index("def translate") :].strip() in guide
    assert len(example.splitlines()) < 100
