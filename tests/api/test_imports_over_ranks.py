"""What a user adds works over ranks: a backend and a family have to be known in each, a sampling rule and a sampling parameter in
the leader alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from brigade.engine.sampling import Sampler
from brigade.errors import RankFailed
from examples.sampling_rule import GumbelMax
from tests.examples.toy_folder import toy_folder

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
MODULES = ("examples.model_family", "examples.sampling_parameter")


def test_a_family_a_parameter_and_a_rule_of_your_own(tmp_path: Path) -> None:
    folder, settings = toy_folder(tmp_path, 64), {"kv_blocks": 8, "import_modules": MODULES, "sampler": Sampler(GumbelMax())}
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
        LLM(toy_folder(tmp_path, 64), kv_blocks=8, tp=2)


@pytest.mark.slow
def test_a_backend_of_your_own_on_the_command_line() -> None:
    """The example's counts products; its arithmetic is the reference's."""
    ask = ["def f(", "--temperature", "0", "--max-tokens", "6", "--kv-blocks", "8"]
    expected = LLM(backend="reference", kv_blocks=8).generate("def f(", SamplingParams(temperature=0.0, max_tokens=6))[0].text
    command = [sys.executable, "-m", "brigade.cli.main", "generate", *ask, "--tp", "2", "--backend", "counting"]
    done = subprocess.run([*command, "--import", "examples.backend"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0 and done.stdout == expected + "\n", done.stderr
