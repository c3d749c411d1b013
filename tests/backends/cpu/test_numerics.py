"""How a process is told to give certain bits: one numerics for all of its models, by the fastest path that has them."""

from __future__ import annotations

import pytest

from brigade import LLM
from brigade.backends.cpu import numerics
from brigade.backends.cpu.library import find_kernels, kernels
from brigade.backends.registry import get_backend
from brigade.cli.main import main
from brigade.errors import ConfigError

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)


class Processor:
    """One with every path, in a process that has not computed yet."""

    KINDS = {
        "amx": "bf16-amx", "avx512-bf16": "bf16-avx512", "avx512-vnni": "bf16-fma", "avx512": "bf16-fma", "avx2": "bf16-fma",
        "portable": "bf16-fma",
    }  # fmt: skip

    def __init__(self) -> None:
        self.path = "amx"

    def br_bf16_name(self) -> bytes:
        return self.KINDS[self.path].encode()

    def take(self, path: str) -> None:
        self.path = path


@pytest.fixture
def processor(monkeypatch) -> Processor:
    made = Processor()
    monkeypatch.delenv("BRIGADE_PATH", raising=False)
    monkeypatch.setattr(numerics, "_in_use", False)
    monkeypatch.setattr(numerics, "kernels", lambda: made)
    monkeypatch.setattr(numerics, "bf16_names", lambda: made.KINDS)
    monkeypatch.setattr(numerics, "choose_path", made.take)
    return made


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("bf16-amx", "amx"),
        ("bf16-avx512", "avx512-bf16"),
        ("bf16-fma", "avx512-vnni"),
        ("cpu-2/bf16-fma/G8/int8/weights-bfloat16", "avx512-vnni"),
        ("cpu-2/G8/int8", "amx"),  # every path gives it
    ],
)
def test_the_fastest_path_of_those_bits_is_taken(processor: Processor, wanted: str, path: str) -> None:
    numerics.settle_numerics(wanted)
    assert processor.path == path


def test_there_is_one_numerics_a_process(processor: Processor) -> None:
    numerics.settle_numerics("bf16-fma")
    numerics.settle_numerics("bf16-fma")
    numerics.settle_numerics(None)
    with pytest.raises(ConfigError, match="numerics is 'bf16-avx512', but this process computes in bf16-fma already"):
        numerics.settle_numerics("bf16-avx512")
    assert processor.path == "avx512-vnni"


def test_a_model_that_asked_for_nothing_keeps_its_bits(processor: Processor) -> None:
    numerics.settle_numerics(None)
    numerics.settle_numerics("bf16-amx")
    with pytest.raises(ConfigError, match="this process computes in bf16-amx already"):
        numerics.settle_numerics("bf16-fma")
    assert processor.path == "amx"


@pytest.mark.parametrize("wanted", ["bf16-none", "", "avx2", "cpu-1/bf16-fma/G8", "reference-1/cpu/float32/tiled/G8"])
def test_an_id_that_no_path_gives_is_refused_with_those_that_can_be_had(processor: Processor, wanted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        numerics.settle_numerics(wanted)
    assert f"numerics is {wanted!r}, which no path of this processor gives" in str(refused.value)
    assert "ask for bf16-amx or bf16-avx512 or bf16-fma" in str(refused.value)
    assert processor.path == "amx"


def test_a_path_that_was_named_gives_its_own_bits_alone(processor: Processor, monkeypatch) -> None:
    monkeypatch.setenv("BRIGADE_PATH", "avx2")
    processor.path = "avx2"
    numerics.settle_numerics("bf16-fma")
    assert processor.path == "avx2", "and no faster one of the same bits"
    with pytest.raises(ConfigError, match="no path of this processor gives with BRIGADE_PATH=avx2; ask for bf16-fma"):
        numerics.settle_numerics("bf16-amx")


def test_a_whole_id_is_held_against_the_model() -> None:
    small = {"kv_blocks": 4, "max_model_len": 64}
    whole = LLM(quant="int8", **small).numerics_id
    assert LLM(quant="int8", numerics=whole, **small).numerics_id == whole
    with pytest.raises(ConfigError, match="but this model computes here as .*/weights-bfloat16; change its quant, dtype"):
        LLM(numerics=whole, **small)


def test_another_backend_gives_its_own_bits_alone() -> None:
    small = {"backend": "reference", "kv_blocks": 4, "max_model_len": 64}
    llm = LLM(**small)
    for own in (llm.numerics_id, llm.backend.numerics_id):
        assert LLM(numerics=own, **small).numerics_id == llm.numerics_id
    with pytest.raises(ConfigError, match="but this model computes here as reference-.*/weights-float32; change its quant, dtype"):
        LLM(numerics=llm.numerics_id, dtype="float32", **small)
    with pytest.raises(ConfigError, match="the reference backend computes as reference-"):
        get_backend("reference", numerics="bf16-fma")


def test_an_id_names_the_rotary_factors_that_max_model_len_chose(tmp_path) -> None:
    """The id that a loaded model reports may be asked for as it is."""
    recipe = tmp_path / "long.yaml"
    recipe.write_text(
        "num_layers: 1\nhidden_size: 32\nnum_heads: 4\nnum_kv_heads: 4\nhead_dim: 8\nffn_size: 64\nvocab_size: 61\n"
        "max_positions: 256\nrope: {rotary_dim: 8, scaling: longrope, original_positions: 64, short_factors: [1, 1, 1, 1], "
        "long_factors: [2, 2, 2, 2]}\n"
    )
    ids = {length: LLM(recipe, random_weights=0, kv_blocks=4, max_model_len=length).numerics_id for length in (64, 256)}
    assert ids[64].endswith("/longrope-short") and ids[256].endswith("/longrope-long")
    for length, wanted in ids.items():
        assert LLM(recipe, random_weights=0, kv_blocks=4, max_model_len=length, numerics=wanted).numerics_id == wanted
    with pytest.raises(ConfigError, match="computes here as .*/longrope-long"):
        LLM(recipe, random_weights=0, kv_blocks=4, numerics=ids[64])


def test_the_commands_take_it(capsys) -> None:
    kind = kernels().br_bf16_name().decode()
    ask = ["generate", "def f(", "--temperature", "0", "--max-tokens", "4", "--kv-blocks", "4"]
    assert main(ask) == 0
    plain = capsys.readouterr().out
    assert main([*ask, "--numerics", kind]) == 0 and capsys.readouterr().out == plain
    assert main([*ask, "--numerics", "bf16-abacus"]) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and refused.err.count("\n") == 1 and kind in refused.err
    assert main(["inspect", "--numerics", "bf16-abacus"]) == 2
