"""The memory plan counts weights as they will lie packed, and tables say in which formats they are held and computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade import LLM
from brigade.cli.main import main
from tests.model.tiny_models import save_tiny

ROOM = {"kv_blocks": 4, "max_batch_size": 2, "backend": "cpu"}


def held(llm: LLM) -> int:
    packed = llm.model.packed
    return sum(matrix.nbytes for matrix in packed.matrices.values()) + sum(tensor.nbytes for tensor in packed.tensors.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "llama_biased", "gpt2", "gpt_neox", "opt_post_norm", "gemma2", "mixtral", "qwen3_moe"])
def test_the_plan_is_what_packing_makes(family: str, dtype: str, tmp_path: Path) -> None:
    save_tiny(family, 0, tmp_path / "m")
    for quant, skip in (("none", ""), ("int8", "1.down"), ("int8-weight", "0"), ("int4", "head"), ("int4-int8", "")):
        llm = LLM(tmp_path / "m", dtype=dtype, quant=quant, skip_layers=skip.split(",") if skip else (), **ROOM)
        assert llm.plan.weights == held(llm), quant


def test_quantising_shows_in_the_plan_that_generate_prints(capsys) -> None:
    plans = {}
    for quant in ("none", "int4"):
        assert main(["generate", "x", "--max-tokens", "1", "--quant", quant, "--kv-blocks", "4"]) == 0
        plans[quant] = float(capsys.readouterr().err.split("weights ")[1].split()[0])
        llm = LLM(quant=quant, **(ROOM | {"max_batch_size": 32}))
        assert plans[quant] == pytest.approx(held(llm) / 2**20, abs=0.06)
    assert plans["int4"] < 0.6 * plans["none"]


FORMATS = {
    ("float32", "none", ()): "weights: float32; arithmetic: float32; cache: float32",
    ("bfloat16", "none", ()): "weights: bfloat16; arithmetic: float32 sums of bfloat16 products; cache: bfloat16",
    ("bfloat16", "int8", ("0.down",)): (
        "weights: int8, head int8, kept in bfloat16: 0.down; arithmetic: int32 sums of int8 products; cache: bfloat16"),
    ("float32", "int4", ("head",)): (
        "weights: int4 in groups of 128, kept in float32: head; arithmetic: float32 sums of bfloat16 products; cache: float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMATS, ids=str)
def test_the_formats_in_words(case: tuple, capsys) -> None:
    dtype, quant, skip = case
    argv = ["inspect", "mini", "--backend", "cpu", "--dtype", dtype, "--quant", quant]
    assert main([*argv, "--skip-layers", ",".join(skip)] if skip else argv) == 0
    assert FORMATS[case] in capsys.readouterr().out.splitlines()


def test_the_reference_holds_bfloat16_as_float32(capsys) -> None:
    assert main(["inspect", "mini", "--backend", "reference", "--dtype", "bfloat16"]) == 0
    assert "weights: bfloat16, held as float32; arithmetic: float32; cache: bfloat16" in capsys.readouterr().out.splitlines()
