"""Many layouts and number formats over real ranks, and models of real sizes: equal to one rank in every bit. In the slow set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from brigade import LLM
from brigade.backends.cpu.library import find_kernels
from tests.api.small_model import ROOM, greedy, heard, ids, load, write_model
from tests.artifact.builders import export

pytestmark = pytest.mark.slow
if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

DEGREES = ((8, 1), (4, 1), (1, 4), (4, 2), (2, 4))
FORMATS: dict[str, dict[str, Any]] = {
    "bf16": {}, "fp32": {"dtype": "float32"}, "int8": {"quant": "int8"}, "int8-weight": {"quant": "int8-weight"},
    "int4": {"quant": "int4"}, "int4-int8": {"quant": "int4-int8"},
}  # fmt: skip
PROMPTS = [ids(1), ids(40, 1), ids(150, 2)]


def same(alone: LLM, ranks: LLM, prompts: list[list[int]] = PROMPTS, tokens: int = 8) -> None:
    expected = alone.logits(prompts)
    assert all(torch.equal(a, b) for a, b in zip(ranks.logits(prompts), expected, strict=True))
    assert all(rows.isfinite().all() and rows.std() > 0 for rows in expected)
    params = greedy(tokens, logprobs=2, prompt_logprobs=1)
    assert [heard(one) for one in ranks.generate(prompts, params)] == [heard(one) for one in alone.generate(prompts, params)]
    plain = greedy(tokens)  # one pair of each rank in place of rows
    assert [heard(one) for one in ranks.generate(prompts, plain)] == [heard(one) for one in alone.generate(prompts, plain)]


@pytest.mark.parametrize(("tp", "pp"), DEGREES)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_layout_in_every_format(kind: str, tp: int, pp: int, folder: Path) -> None:
    """The embedded model has seven layers and grouped heads; the small one has biases and LayerNorm."""
    for model in (folder, None) if kind in ("bf16", "int8") else (None,):
        with LLM(model, **ROOM, **FORMATS[kind]) as alone, LLM(model, tp=tp, pp=pp, **ROOM, **FORMATS[kind]) as ranks:
            same(alone, ranks)


@pytest.mark.parametrize(("tp", "pp", "exchange"), [(8, 1, "group"), (2, 4, "group"), (4, 2, "shared")])
def test_the_reference_backend(tp: int, pp: int, exchange: str, folder: Path) -> None:
    with load(folder, backend="reference") as alone, load(folder, backend="reference", tp=tp, pp=pp, exchange=exchange) as ranks:
        same(alone, ranks)


@pytest.fixture(scope="module", params=[4096, 300], ids=["on panel borders", "inside of panels"])
def artifacts(request, tmp_path_factory) -> Iterator[Any]:
    """A vocabulary of 300 is cut for 8 ranks inside a panel of 32 outputs, and one of 4096 is not; the head is quantised too."""
    home = tmp_path_factory.mktemp("artifacts")
    model = write_model(home / "model", request.param)

    @cache
    def make(kind: str) -> Path:
        options = [word for name, value in FORMATS[kind].items() for word in (f"--{name}", value)]
        return export(model, home / kind, *options)

    yield make


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (8, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_an_artifact(kind: str, tp: int, pp: int, artifacts) -> None:
    artifact = artifacts(kind)
    prompts = [[word % 300 or 1 for word in prompt] for prompt in PROMPTS]
    prompts = [[word for word in prompt if word != 4000 % 300] or [1] for prompt in prompts]
    with LLM(artifact, **ROOM) as alone, LLM(artifact, tp=tp, pp=pp, **ROOM) as ranks:
        same(alone, ranks, prompts)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_model_of_345_million(kind: str) -> None:
    settings = {"random_weights": 0, "kv_blocks": 16, **FORMATS[kind]}
    prompt = torch.randint(0, 50304, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with LLM("gpt-345m", **settings) as alone:
        logits, tokens = alone.logits([prompt])[0], alone.generate([prompt], greedy())[0].token_ids
    for tp, pp in ((2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 2)):
        with LLM("gpt-345m", tp=tp, pp=pp, **settings) as ranks:
            assert torch.equal(ranks.logits([prompt])[0], logits), f"tp {tp} x pp {pp}"
            assert ranks.generate([prompt], greedy())[0].token_ids == tokens, f"tp {tp} x pp {pp}"
