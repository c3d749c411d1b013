"""One numerics id, one set of bits: the table of docs/cpu_backend.md, held on every path that this machine has."""

from __future__ import annotations

import pytest
import torch

from brigade import LLM
from brigade.backends.cpu.library import available_paths, choose_path, find_kernels, kernels
from brigade.backends.cpu.quant import SCHEMES
from brigade.backends.registry import get_backend
from tests.artifact.builders import llm_of, logits_of
from tests.model.tiny_models import save_tiny

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

# Schemes whose every product is float32 or int8, as long as the cache is float32: their bits are those of every path.
EVERYWHERE = ("none", "int8", "int4-int8")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_one_id_is_one_set_of_bits_on_every_path(family: str, dtype: str, scheme: str, tmp_path) -> None:
    save_tiny(family, 0, tmp_path)
    said: dict[str, torch.Tensor] = {}
    kinds = set()
    try:
        for path in available_paths():
            choose_path(path)
            kinds.add(kernels().br_bf16_name())
            llm = llm_of(tmp_path, dtype=dtype, quant=scheme)
            logits = logits_of(llm)
            assert torch.equal(said.setdefault(llm.numerics_id, logits), logits), path
    finally:
        choose_path("")
    everywhere = dtype == "float32" and scheme in EVERYWHERE
    assert len(said) == (1 if everywhere else len(kinds))
    assert all(("bf16-" in name) is not everywhere for name in said)


def test_an_id_names_the_generation_and_what_the_model_is_held_in() -> None:
    kind = kernels().br_bf16_name().decode()
    settings = {"kv_blocks": 4, "max_model_len": 64}
    assert LLM(**settings).numerics_id == f"cpu-2/{kind}/G8/weights-bfloat16"
    assert LLM(dtype="float32", **settings).numerics_id == "cpu-2/G8/weights-float32"
    assert LLM(dtype="float32", quant="int8", **settings).numerics_id == "cpu-2/G8/int8/weights-float32"
    assert LLM(dtype="float32", quant="int4", **settings).numerics_id == f"cpu-2/{kind}/G8/int4/weights-float32"
    assert get_backend("cpu").numerics_id == f"cpu-2/{kind}/G8", "of a model that may be held in anything"
