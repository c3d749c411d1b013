"""In bfloat16 we stay within the distance that transformers' own bfloat16 has from float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels
from brigade.backends.registry import get_backend
from tests.breadth import every_other
from tests.model.test_families import BACKENDS, LENGTH, our_logits, their_logits
from tests.model.tiny_models import FAMILIES, save_tiny

SEEDS = range(4)  # a single one decides little: both distances are made of rounding


def distances(name: str, folder: Path, backend) -> tuple[float, float]:
    """Ours and theirs: at a position the root of the mean square over the vocabulary, and the median of all positions and seeds.
    Not their mean: where a router's near tie falls the other way, an expert changes and the distance jumps, theirs as ours."""
    ours, theirs = [], []
    for seed in SEEDS:
        model = save_tiny(name, seed, folder / str(seed), None)
        ids = torch.randint(0, model.config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()
        exact = their_logits(model, ids)
        theirs.append((their_logits(model.to(torch.bfloat16), ids).float() - exact).square().mean(1).sqrt())
        ours.append((our_logits(folder / str(seed), ids, backend, torch.bfloat16) - exact).square().mean(1).sqrt())
    return torch.cat(ours).median().item(), torch.cat(theirs).median().item()


# On the backend that is used every family.
CASES = [(name, "cpu") for name in FAMILIES if "cpu" in BACKENDS] + every_other((name, "reference") for name in FAMILIES)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_bfloat16_is_no_further_from_float32_than_theirs(name: str, backend: str, tmp_path: Path) -> None:
    ours, theirs = distances(name, tmp_path, get_backend(backend))
    assert 0 < ours <= theirs


@pytest.mark.slow
@pytest.mark.parametrize("path", available_paths() if find_kernels() is not None else ())
@pytest.mark.parametrize("name", FAMILIES)
def test_so_it_is_with_every_instruction_set(name: str, path: str, tmp_path: Path) -> None:
    choose_path(path)
    try:
        ours, theirs = distances(name, tmp_path, get_backend("cpu"))
    finally:
        choose_path("")
    assert 0 < ours <= theirs
