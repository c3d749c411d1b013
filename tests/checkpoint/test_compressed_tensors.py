"""A folder for other engines: transformers loads it with the compressed-tensors package, and says what we say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.checkpoint.compressed_tensors import pack_int32
from brigade.cli.main import main
from tests.artifact.builders import export, llm_of
from tests.model.tiny_models import save_tiny

IDS = [5, 17, 3, 96, 41, 8, 22]
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # inputs that a group of 32 divides


def theirs(folder: Path) -> torch.Tensor:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def dequantised(folder: Path, out: Path) -> Path:
    """The same folder with the numbers that the compressed-tensors package makes of its tensors."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationConfig

    values = json.loads((folder / "config.json").read_text())
    settings = values.pop("quantization_config")
    scheme = QuantizationConfig(**settings).config_groups["group_0"]
    compressor = compressors.BaseCompressor.get_value_from_registry(settings["format"])
    tensors = load_file(folder / "model.safetensors")
    for place in [name.removesuffix("_scale") for name in tensors if name.endswith("weight_scale")]:
        own = {
            name.removeprefix(place.removesuffix("weight")): tensors.pop(name) for name in list(tensors) if name.startswith(place)
        }
        tensors[place] = compressor.decompress(own, scheme)["weight"].contiguous()
    out.mkdir()
    (out / "config.json").write_text(json.dumps(values))
    save_file(tensors, out / "model.safetensors")
    return out


@pytest.mark.parametrize("scheme", ["none", "int8-weight", "int4"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gemma2"])
def test_transformers_says_what_we_say(tmp_path: Path, family: str, scheme: str) -> None:
    """Of the same numbers: both read the folder, and ours computes them without quantising again."""
    pytest.importorskip("compressed_tensors")
    save_tiny(family, 0, tmp_path / "model", **WIDE)
    out = export(tmp_path / "model", tmp_path / "out", "--format", "compressed-tensors", "--quant", scheme)
    ours = llm_of(out if scheme == "none" else dequantised(out, tmp_path / "numbers")).logits([IDS])[0]
    assert (theirs(out) - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_int8_rounds_activations_in_both(tmp_path: Path) -> None:
    """Each by arithmetic of its own, so the two are near, not equal; and nearer to each other than to the whole model."""
    pytest.importorskip("compressed_tensors")
    save_tiny("llama", 0, tmp_path / "model", **WIDE)
    out = export(tmp_path / "model", tmp_path / "out", "--format", "compressed-tensors", "--quant", "int8")
    found, ours = theirs(out), llm_of(tmp_path / "model", quant="int8", skip_layers="head").logits([IDS])[0]
    whole = llm_of(tmp_path / "model").logits([IDS])[0]
    assert (found - ours).abs().max() <= 0.03 * ours.abs().max()
    assert (found - ours).square().mean() < (found - whole).square().mean()


@pytest.mark.parametrize("scheme", ["int8", "int8-weight", "int4"])
def test_the_numbers_are_those_of_our_matrices(tmp_path: Path, scheme: str) -> None:
    """To the last bit: the compressed-tensors package gives back the weights that our kernels compute with."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationConfig

    save_tiny("llama", 0, tmp_path / "model", **WIDE)
    export(tmp_path / "model", tmp_path / "out", "--format", "compressed-tensors", "--quant", scheme)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    tensors, scheme_of = load_file(tmp_path / "out" / "model.safetensors"), QuantizationConfig(**settings).config_groups["group_0"]
    place = "model.layers.1.self_attn.q_proj."
    own = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
    assert set(own) == ({"weight", "weight_scale"} if scheme == "int8" else {"weight_packed", "weight_shape", "weight_scale"})
    compressor = compressors.BaseCompressor.get_value_from_registry(settings["format"])
    given_NK = compressor.decompress(own, scheme_of)["weight"]
    from brigade.backends.cpu.matrix import pack

    weight_NK = load_file(tmp_path / "model" / "model.safetensors")[f"{place}weight"]
    group = settings["config_groups"]["group_0"]["weights"].get("group_size") or 128
    assert torch.equal(given_NK, pack(weight_NK, None, scheme, tree=False, group=group).unpack())


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_the_packages_own(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (5, 96), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    assert torch.equal(pack_int32(codes, bits), helpers.pack_to_int32(codes, bits))


def test_inputs_that_no_group_divides_stay_whole_and_this_is_said(tmp_path: Path, capsys) -> None:
    export("mini", tmp_path / "out", "--format", "compressed-tensors", "--quant", "int4")
    assert "7 matrices stay whole" in capsys.readouterr().out
    names = load_file(tmp_path / "out" / "model.safetensors")
    assert "model.layers.0.mlp.down_proj.weight" in names and "model.layers.0.mlp.up_proj.weight_packed" in names
    # 256 inputs of each of the others: what stays whole does not choose their group.
    assert names["model.layers.0.mlp.up_proj.weight_scale"].shape[1] == 2


def test_without_quantising_it_is_an_ordinary_folder_of_ours_too(tmp_path: Path) -> None:
    save_tiny("mixtral", 0, tmp_path / "model")
    out = export(tmp_path / "model", tmp_path / "out", "--format", "compressed-tensors")
    assert torch.equal(llm_of(out).logits([IDS])[0], llm_of(tmp_path / "model").logits([IDS])[0])


REFUSED = {
    "recipe": ("345m", [], "is a recipe, which has no names"),
    "turned": ("gpt2", ["--quant", "int8"], "stored turned"),
    "scheme": ("llama", ["--quant", "int4-int8"], "is a scheme of ours"),
    "experts": ("mixtral", ["--quant", "int4"], "has experts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_others_could_not_read_is_refused_in_one_line(case: str, tmp_path: Path, capsys) -> None:
    model, argv, words = REFUSED[case]
    if model != "345m":
        save_tiny(model, 0, tmp_path / "model")
        model = str(tmp_path / "model")
    capsys.readouterr()
    assert main(["export", model, str(tmp_path / "out"), "--format", "compressed-tensors", *argv]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.strip().count("brigade: error") == 1 and not (tmp_path / "out").exists()
