"""The fingerprint: one model on any backend has one, and whatever makes another model changes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from brigade.assembly.choices import Choices
from brigade.assembly.line import draw
from brigade.backends.cpu.library import find_kernels
from brigade.checkpoint.load import EMBEDDED
from brigade.verify.fingerprint import fingerprint
from tests.verify.builders import write_case

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")


def of(model, **choices) -> str:
    """No weight is loaded: it is a matter of files and settings."""
    drawn = draw(Choices(model, **choices))
    return fingerprint(
        SimpleNamespace(source=drawn.source, backend=drawn.backend, config=drawn.source.config, dtype=drawn.dtype, blueprint=drawn)
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_case(tmp_path / "case") / "tiny.yaml"


@needs_kernels
def test_it_is_the_same_on_any_backend_and_with_any_engine(recipe: Path) -> None:
    one = of(recipe, random_weights=1, backend="reference")
    assert one == of(recipe, random_weights=1, backend="cpu", engine="static", engine_settings={"kv_blocks": 3}), "not of the run"


@needs_kernels
def test_whatever_makes_another_model_changes_it(recipe: Path) -> None:
    plain = {"backend": "cpu", "random_weights": 1}
    found = [of(recipe, **plain | other) for other in ({}, {"random_weights": 2}, {"dtype": "bfloat16"}, {"quant": "int8"})]
    recipe.write_text(recipe.read_text().replace("num_layers: 2", "num_layers: 3"))
    found.append(of(recipe, **plain))
    assert len(set(found)) == 5


def test_one_bit_of_a_weight_file_changes_it_and_the_folders_name_does_not(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "copy")
    assert of(tmp_path / "copy", backend="reference") == of("mini", backend="reference")
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    assert of(tmp_path / "copy", backend="reference") != of("mini", backend="reference")


@needs_kernels
def test_an_artifact_has_one_of_its_own_that_stays(tmp_path: Path) -> None:
    from brigade.cli.main import main

    assert main(["export", "mini", str(tmp_path / "packed"), "--quant", "int8"]) == 0
    assert of(tmp_path / "packed") == of(tmp_path / "packed") != of("mini", quant="int8")
