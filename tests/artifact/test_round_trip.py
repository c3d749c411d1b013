"""A model from an artifact says what the model it came from says, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.manifest import read_manifest
from brigade.backends.cpu.library import available_paths, choose_path
from brigade.checkpoint.load import EMBEDDED
from tests.artifact.builders import export, llm_of, logits_of, write_from
from tests.breadth import one_in
from tests.model.tiny_models import save_tiny

SCHEMES = ("none", "int8", "int8-weight", "int4", "int4-int8")
# tied and untied heads, biases, learned positions, post-norm with projected words, windows, sandwich norms, experts
FAMILIES = ("llama", "llama_biased", "gpt2", "gpt_neox", "opt_post_norm", "gemma2", "gemma3", "mixtral", "qwen3_moe", "olmoe")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_embedded_model_at_every_scheme(tmp_path: Path, scheme: str) -> None:
    out = export("mini", tmp_path / "a", "--quant", scheme)
    made, loaded = llm_of(None, quant=scheme), llm_of(out)
    assert torch.equal(logits_of(loaded), logits_of(made))
    assert loaded.numerics_id == made.numerics_id
    text = loaded.generate("def main():", loaded.params(max_tokens=8, temperature=0.0))[0].text
    assert text == made.generate("def main():", made.params(max_tokens=8, temperature=0.0))[0].text
    assert loaded.chat_prompt([{"role": "user", "content": "x"}]) == made.chat_prompt([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(("family", "scheme"), one_in(2, FAMILIES, SCHEMES))
def test_every_kind_of_network(tmp_path: Path, family: str, scheme: str) -> None:
    save_tiny(family, 0, tmp_path / "model")
    made = llm_of(tmp_path / "model", quant=scheme)
    loaded = llm_of(write_from(made, tmp_path / "model", tmp_path / "a"))
    assert torch.equal(logits_of(loaded), logits_of(made))


def test_an_untied_head_and_float32(tmp_path: Path) -> None:
    save_tiny("llama", 0, tmp_path / "model", tied=False)
    made = llm_of(tmp_path / "model", dtype="bfloat16", quant="int8", skip_layers="1.down,head")
    loaded = llm_of(write_from(made, tmp_path / "model", tmp_path / "a"))
    assert loaded.dtype == torch.bfloat16 and torch.equal(logits_of(loaded), logits_of(made))
    assert made.backend.numerics_id.endswith("/int8-skip-1.down+head") and loaded.numerics_id == made.numerics_id


def test_weights_lie_in_the_map(tmp_path: Path) -> None:
    """Nothing is copied: every array of every matrix begins on a cache line of a page of the file."""
    loaded = llm_of(export("mini", tmp_path / "a", "--quant", "int4"))
    import numpy as np

    artifact = loaded.source.artifact
    starts = [(np.frombuffer(artifact.maps[each.name], np.uint8).ctypes.data, each.bytes) for each in artifact.weight_files]
    for matrix in loaded.model.packed.matrices.values():
        for array in matrix.arrays:
            if array is not None:
                at = array.ctypes.data
                assert at % 64 == 0 and any(start <= at < start + size for start, size in starts)


def test_the_packed_bytes_are_those_of_every_path(tmp_path: Path) -> None:
    """So an artifact goes from one machine to another; only the name of the path in its numerics id differs."""
    files = []
    try:
        for path in available_paths():
            choose_path(path)
            out = export("mini", tmp_path / path, "--quant", "int8")
            files.append((out / "weights-00000.packed").read_bytes())
            assert read_manifest(out).spans == read_manifest(tmp_path / available_paths()[0]).spans
            choose_path("portable")
            loaded = llm_of(out)
            assert torch.equal(logits_of(loaded, 5), logits_of(llm_of(EMBEDDED, quant="int8"), 5))
    finally:
        choose_path("")
    assert all(one == files[0] for one in files)
