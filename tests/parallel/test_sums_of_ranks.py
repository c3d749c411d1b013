"""What all ranks of a layout count of a model adds up to what one rank counts, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cache

import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.backends.registry import get_backend
from brigade.config import ModelConfig
from brigade.model.gpt_model import empty_model
from brigade.parallel.degrees import make_mesh
from tests.backends.cpu.ranks import Meeting, ThreadExchange
from tests.parallel.test_stage import BASE, CONFIGS, FORMATS, LAYOUTS, Drawn, Format
from tests.parallel.thread_ranks import run_ranks

Sums = dict[str, tuple[str, int]]
drawn = cache(Drawn)
made = cache(get_backend)  # the reference takes long to prove its products
needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")


def counted(config: ModelConfig, tp: int, pp: int, form: Format) -> Sums:
    """By the names of tensors; no rank may say one twice."""
    mesh, dtype = make_mesh(config, tp, pp), getattr(torch, form[1])
    meetings = [Meeting(tp) for _ in range(pp)]

    def work(rank: int):
        backend = copy(made(form[0]))
        backend.exchange = ThreadExchange(mesh.tp_rank(rank), meetings[mesh.stage(rank)])
        if form[2] != "none":
            backend.quantise(form[2])
        model = empty_model(config, backend, held=mesh.part(rank, config.num_layers))
        backend.prepare(model, drawn(config, dtype))
        return list(backend.tensor_sums(model, dtype))

    total: Sums = {}
    for found in run_ranks([lambda rank=rank: work(rank) for rank in range(mesh.world)]):
        assert len({one.name for one in found}) == len(found)
        for one in found:
            kind, before = total.get(one.name, (one.kind, 0))
            assert kind == one.kind
            total[one.name] = kind, (before + one.value) % 2**64
    return total


def check(config: ModelConfig, form: Format, layouts: Sequence[tuple[int, int]]) -> Sums:
    whole = counted(config, 1, 1, form)
    assert len({value for _, value in whole.values()}) == len(whole), "every tensor has a sum of its own"
    for tp, pp in layouts:
        found = counted(config, tp, pp, form)
        assert found == whole, f"tp {tp}, pp {pp}: {[name for name in {*found, *whole} if found.get(name) != whole.get(name)]}"
    return whole


@pytest.mark.parametrize("name", CONFIGS)
def test_of_every_architecture(name: str) -> None:
    """Heads of keys that several ranks hold, tied heads, experts, projections of the word vectors."""
    form = FORMATS[-1] if find_kernels() is not None else FORMATS[0]
    check(CONFIGS[name], form, [(4, 2)])


@pytest.mark.parametrize("form", FORMATS, ids="-".join)
def test_in_every_number_format(form: Format) -> None:
    check(CONFIGS["grouped"], form, [(4, 1)])


@needs_kernels
def test_both_backends_count_the_same() -> None:
    for name in CONFIGS:
        for dtype in ("float32", "bfloat16"):
            assert counted(CONFIGS[name], 1, 1, ("reference", dtype, "none")) == counted(
                CONFIGS[name], 1, 1, ("cpu", dtype, "none")
            )


def test_every_parameter_is_counted() -> None:
    """By its name; experts one by one, and a tied word table once more as the head."""
    for name, config in CONFIGS.items():
        shapes = drawn(config, torch.float32).tensors
        stacked = {name: tensor.shape[0] for name, tensor in shapes.items() if tensor.dim() == 3}
        wanted = {one for one in shapes if one not in stacked} | {
            f"{one}.{i}" for one, count in stacked.items() for i in range(count)
        }
        assert set(counted(config, 1, 1, FORMATS[0])) == wanted | ({"head.weight"} if config.tied_head else set()), name


@needs_kernels
def test_blocks_of_k_that_are_no_whole_words() -> None:
    """K of 24 in 8 blocks of 3."""
    config = replace(
        BASE,
        num_heads=8,
        head_dim=3,
        num_kv_heads=8,
        ffn_size=40,
        position="none",
        rope=None,
        sliding_window=None,
        windowed_layers=(),
    )
    for form in FORMATS[2:5]:
        found = check(config, form, [(8, 1)])
        if form[2] == "none":
            assert found == counted(config, 1, 1, ("reference", *form[1:])), "which knows nothing of blocks"


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", FORMATS, ids="-".join)
def test_all_of_all(name: str, form: Format) -> None:
    check(CONFIGS[name], form, LAYOUTS)
