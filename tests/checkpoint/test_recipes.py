"""Recipes have the sizes they are named for, and their random weights are the same bits however they are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from brigade.backends.registry import get_backend
from brigade.checkpoint.load import open_model
from brigade.checkpoint.random_weights import random_parameter
from brigade.checkpoint.recipes import recipe_names
from brigade.errors import CheckpointError, ConfigError
from brigade.model.gpt_model import empty_model


def by_hand(layers: int, hidden: int, vocabulary: int, positions: int) -> int:
    """The GPT-3 shape with a feed-forward width of four times the hidden one."""
    return vocabulary * hidden + positions * hidden + layers * (12 * hidden * hidden + 13 * hidden) + 2 * hidden


@pytest.mark.parametrize("name", ["345m", "357m", "583m", "1.3b", "6.7b", "13b", "175b"])
def test_parameter_counts(name: str) -> None:
    config = open_model(name).config
    assert config.ffn_size == 4 * config.hidden_size
    expected = by_hand(config.num_layers, config.hidden_size, config.vocab_size, config.max_positions)
    assert empty_model(config, get_backend("reference")).num_parameters == expected


def test_the_345m_has_355_million_and_the_175b_its_175_billion() -> None:
    assert by_hand(24, 1024, 50304, 1024) == 354_871_296
    assert by_hand(96, 12288, 51200, 1024) == 174_603_264_000


def test_the_12b_is_the_modern_one() -> None:
    config = open_model("gpt-12b").config
    assert (config.norm, config.gated, config.num_kv_heads, config.tied_head) == ("rmsnorm", True, 8, False)
    assert 11e9 < empty_model(config, get_backend("reference")).num_parameters < 13e9


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_runs_in_bfloat16_as_it_is_deployed(name: str) -> None:
    assert open_model(name).dtype == "bfloat16"


def test_a_recipe_of_your_own_runs_in_bfloat16_unless_it_says_otherwise(tmp_path: Path) -> None:
    file, text = tmp_path / "own.yaml", Path(__file__).parents[2].joinpath("brigade/recipes/gpt-345m.yaml").read_text()
    file.write_text(text.replace("dtype: bfloat16\n", ""))
    assert "dtype" not in file.read_text() and open_model(file).dtype == "bfloat16"
    file.write_text(text.replace("dtype: bfloat16", "dtype: float32"))
    assert open_model(file).dtype == "float32"


def test_all_eight_are_there() -> None:
    assert recipe_names() == sorted(f"gpt-{size}" for size in ("345m", "357m", "583m", "1.3b", "6.7b", "12b", "13b", "175b"))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("num_layers: 2\ncolour: red\n", CheckpointError, "colour"),
        ("- 1\n", CheckpointError, "no settings"),
        ("a: [\n", CheckpointError, "not valid YAML"),
        ("num_layers: 2\n", CheckpointError, "incomplete"),
    ],
)
def test_a_recipe_of_your_own_is_checked(text: str, error, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(error, match=words) as refused:
        open_model(file)
    assert "\n" not in str(refused.value)


def test_a_size_below_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(Path(__file__).parents[2].joinpath("brigade/recipes/gpt-345m.yaml").read_text().replace("24", "0"))
    with pytest.raises(ConfigError, match="num_layers is 0"):
        open_model(file)


@pytest.mark.parametrize(
    "box", [((0, 3), (0, 13)), ((5, 11), (0, 13)), ((10, 11), (0, 13)), ((0, 11), (4, 9)), ((3, 8), (12, 13)), ((2, 3), (1, 2))]
)
@pytest.mark.parametrize("shape", [(11, 13), (11, 16)])
def test_a_box_has_the_bits_of_the_whole(shape: tuple[int, int], box: tuple[tuple[int, int], tuple[int, int]]) -> None:
    whole, (rows, columns) = random_parameter(7, "layers.3.mlp.up.weight", shape), box
    assert torch.equal(random_parameter(7, "layers.3.mlp.up.weight", shape, box), whole[slice(*rows), slice(*columns)])


def test_a_box_that_takes_more_than_one_draw_too() -> None:
    """Numbers are drawn a quarter of a million at a time."""
    shape = (9, 300_001)
    whole = random_parameter(7, "head.weight", shape)
    assert whole.unique().numel() > 60_000  # of 65,536
    for rows, columns in (((1, 9), (0, 300_001)), ((2, 8), (3, 299_000)), ((4, 5), (7, 300_000)), ((0, 9), (299_999, 300_001))):
        found = random_parameter(7, "head.weight", shape, (rows, columns))
        assert torch.equal(found, whole[slice(*rows), slice(*columns)])


def test_weights_are_those_they_always_were() -> None:
    found = random_parameter(0, "embedding.word", (2, 3))
    assert found.flatten().tolist() == pytest.approx(GOLDEN, abs=0)
    assert not torch.equal(found, random_parameter(1, "embedding.word", (2, 3)))
    assert not torch.equal(found, random_parameter(0, "embedding.position", (2, 3)))


def test_weights_spread_as_they_should() -> None:
    sample = random_parameter(3, "head.weight", (1000, 300))
    standard_error = 0.02 / sample.numel() ** 0.5
    assert abs(sample.mean()) < 5 * standard_error and abs(sample.std() - 0.02) < 5 * standard_error
    assert torch.equal(random_parameter(3, "final_norm.weight", (8,)), torch.ones(8))


GOLDEN = [
    0.012243497185409069,
    -0.0017374423332512379,
    -0.006866782438009977,
    -0.02990335412323475,
    0.021847795695066452,
    -0.020447058603167534,
]
