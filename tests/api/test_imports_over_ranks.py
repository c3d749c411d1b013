"""What a user adds works over ranks: a backend and a family have to be known in each, a sampling rule and a sampling parameter in
the leader alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from brigade.engine.sampling import Sampler
from brigade.errors import RankFailed
from examples.sampling_rule import GumbelMax

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
MODULES = ("examples.model_family", "examples.sampling_parameter")


def toy(folder: Path) -> Path:
    """A folder of the example's own family."""
    config = {"model_type": "toy", "vocab_size": 61, "depth": 2, "width": 64, "heads": 4, "context": 64, "causal": True}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    tensors = {"toy.words": matrix(61, 64), "toy.end.scale": torch.ones(64)}
    for i in range(2):
        at = f"toy.block.{i}"
        tensors |= {f"{at}.{name}": matrix(64, 64) for name in "qkvo"}
        tensors |= {f"{at}.gate": matrix(128, 64), f"{at}.up": matrix(128, 64), f"{at}.down": matrix(64, 128)}
        tensors |= {f"{at}.one.scale": torch.ones(64), f"{at}.two.scale": torch.ones(64)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_family_a_parameter_and_a_rule_of_your_own(tmp_path: Path) -> None:
    folder, settings = toy(tmp_path), {"kv_blocks": 8, "import_modules": MODULES, "sampler": Sampler(GumbelMax())}
    with LLM(folder, **settings) as alone, LLM(folder, tp=2, **settings) as ranks:
        assert torch.equal(ranks.logits([[1, 2, 3]])[0], alone.logits([[1, 2, 3]])[0])
        params = [
            SamplingParams(temperature=0.0, max_tokens=20, seed=0, extra={"no_repeat": 3}),
            SamplingParams(seed=3, max_tokens=20),
        ]
        expected, found = ([one.token_ids for one in llm.generate([[1, 2]] * 2, params)] for llm in (alone, ranks))
        default = LLM(folder, kv_blocks=8).generate([[1, 2]], params[1])[0].token_ids
    assert found == expected
    assert all(found[0][i] not in found[0][max(i - 3, 0) : i] for i in range(20)) and found[1] != default


def test_a_family_that_the_ranks_do_not_know(tmp_path: Path) -> None:
    """Known here, since the other test has imported it, and not there: the error says whose it is, and no rank is left."""
    import examples.model_family  # noqa: F401

    with pytest.raises(RankFailed, match=r"rank 1 \(stage 0, tensor rank 1\) raised .*toy"):
        LLM(toy(tmp_path), kv_blocks=8, tp=2)


def test_a_backend_of_your_own_on_the_command_line() -> None:
    """The example's counts products; its arithmetic is the reference's."""
    ask = ["def f(", "--temperature", "0", "--max-tokens", "6", "--kv-blocks", "8"]
    expected = LLM(backend="reference", kv_blocks=8).generate("def f(", SamplingParams(temperature=0.0, max_tokens=6))[0].text
    command = [sys.executable, "-m", "brigade.cli.main", "generate", *ask, "--tp", "2", "--backend", "counting"]
    done = subprocess.run([*command, "--import", "examples.backend"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and done.stdout == expected + "\n", done.stderr
