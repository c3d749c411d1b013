"""On paper every rank of a layout holds and exchanges what it will when it runs, and the smallest layout is found."""

from __future__ import annotations

import math
import queue
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from brigade.assembly.capacity import TokenBytes, on_paper, smallest_layout, token_bytes
from brigade.assembly.choices import Choices
from brigade.assembly.line import Blueprint, draw
from brigade.backends.cpu.library import find_kernels
from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch, Span, Wanted
from brigade.model.gpt_model import GPTModel
from brigade.parallel.degrees import make_mesh, tp_degrees
from brigade.parallel.stage import Stage
from tests.backends.cpu.ranks import Meeting, ThreadExchange
from tests.breadth import one_in
from tests.parallel.test_stage import CONFIGS, Channel, Drawn
from tests.parallel.thread_ranks import run_ranks

GIB = 1 << 30
RECIPE = (
    "vocab_size: 151\nnum_layers: 4\nhidden_size: 32\nnum_heads: 8\nnum_kv_heads: 8\nhead_dim: 8\nffn_size: 64\n"
    "max_positions: 128\nrope: {rotary_dim: 8}\n"
)
FORMATS = [("reference", None)]
if find_kernels() is not None:
    FORMATS += [("cpu", None), ("cpu", "int8"), ("cpu", "int4")]


def drawn(folder: Path, name: str, form: tuple = FORMATS[-1], rank: int = 0, **asked) -> Blueprint:
    """Of a small network: drawn as a recipe, which knows no experts, and then given the network's sizes."""
    recipe = folder / f"model-{rank}.yaml"
    recipe.write_text(RECIPE)
    made = draw(Choices(str(recipe), dtype="float32", backend=form[0], quant=form[1], **asked), rank)
    return replace(made, source=replace(made.source, config=CONFIGS[name]))


def held_bytes(network: GPTModel) -> int:
    if not hasattr(network, "packed"):
        return sum(parameter.nbytes for parameter in network.parameters())
    packed = network.packed
    return sum(matrix.nbytes for matrix in packed.matrices.values()) + sum(tensor.nbytes for tensor in packed.tensors.values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_rank_is_said_to_need_what_it_will_plan(name: str, form: tuple, tmp_path: Path) -> None:
    """In steps of few tokens, in which the leader's gathered logits are the most that there is."""
    blueprint = drawn(tmp_path, name, form, engine_settings={"max_batch_size": 32, "max_step_tokens": 32})
    for tp, pp in ((1, 1), (2, 2), (8, 4)):
        laid_out = replace(blueprint, mesh=make_mesh(blueprint.source.config, tp, pp))
        paper = on_paper(laid_out, GIB)
        assert [one.rank for one in paper.ranks] == list(range(tp * pp)) and paper.fits
        for one in paper.ranks:
            own = replace(laid_out, rank=one.rank)
            plan = own.plan()
            assert one.needs == own.needs() and one.needs.beside_cache == plan.available - plan.room
            assert one.repacked == ()
            assert one.cache == paper.num_blocks * 64 * own.position_bytes == paper.num_blocks * plan.block_bytes


@pytest.mark.parametrize(("name", "form"), one_in(2, CONFIGS, FORMATS[:3]), ids=str)
def test_weights_and_a_token_are_said_to_take_what_they_take(name: str, form: tuple, tmp_path: Path) -> None:
    blueprint = drawn(tmp_path, name, form)
    config, (tp, pp) = blueprint.source.config, (4, 2)
    laid_out = replace(blueprint, mesh=make_mesh(config, tp, pp))
    meetings, belts = [Meeting(tp) for _ in range(pp)], [queue.Queue() for _ in range(tp)]
    weights, given = Drawn(config, blueprint.dtype), {}

    def work(rank: int) -> None:
        stage, t = laid_out.mesh.stage(rank), laid_out.mesh.tp_rank(rank)
        own = drawn(tmp_path, name, form, rank, tp=tp, pp=pp)
        own.backend.exchange = ThreadExchange(t, meetings[stage])
        said = own.needs().weights
        own.backend.prepare(own.network, weights)
        assert said == held_bytes(own.network)
        channel = Channel(belts[t], None) if stage else Channel(None, belts[t])
        cache: KVCache = own.cache(4, 32)
        for wanted in (Wanted.LAST, Wanted.BEST):
            own.backend.exchange.calls.clear()
            Stage(own.network, channel).run(Batch((Span([5], 0, [1], wanted),)), cache)
            sizes = {"words": 0, "layers": 0, "logits": 0}
            for call, shape, dtype in own.backend.exchange.calls:
                kind = {"choose": "words", "gather": "logits"}.get(call, "layers")
                sizes[kind] += math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
            given[rank, wanted] = sizes

    run_ranks([lambda rank=rank: work(rank) for rank in range(tp * pp)])
    for rank in range(tp * pp):
        said = token_bytes(replace(laid_out, rank=rank))
        assert said.rows == (4 * config.hidden_size if laid_out.mesh.stage(rank) == 0 else 0)
        assert given[rank, Wanted.LAST]["words"] == said.words and given[rank, Wanted.LAST]["layers"] == said.layers > 0
        if laid_out.mesh.stage(rank) == pp - 1:
            assert given[rank, Wanted.BEST]["logits"] == TokenBytes.GREEDY
            assert said.logits * 3 / 4 < given[rank, Wanted.LAST]["logits"] <= said.logits, "filled up to the widest share"


def test_the_smallest_layout_is_that_of_a_search_through_all(tmp_path: Path) -> None:
    for name in ("moe", "gpt2"):
        blueprint = drawn(tmp_path, name, engine_settings={"max_batch_size": 2, "max_step_tokens": 4})
        config = blueprint.source.config
        layouts = [(tp * pp, -tp) for tp in tp_degrees(config) for pp in range(1, config.num_layers + 1)]
        fullest = {}
        for ranks, tp in layouts:
            paper = on_paper(replace(blueprint, mesh=make_mesh(config, -tp, ranks // -tp)), GIB)
            fullest[ranks, tp] = paper.fullest.whole
        for memory in {size + more for size in fullest.values() for more in (0, -1)} | {GIB}:
            fitting = [layout for layout in sorted(layouts) if fullest[layout] <= memory]
            found = smallest_layout(blueprint, memory)
            assert (found is None) == (not fitting)
            if found is not None:
                assert (found.mesh.world, -found.mesh.tp) == fitting[0] and found.fits


def test_a_cache_that_does_not_fit_is_told_in_positions(tmp_path: Path) -> None:
    blueprint = drawn(tmp_path, "rope", engine_settings={"max_batch_size": 4, "max_step_tokens": 4})
    whole = on_paper(blueprint, GIB).ranks[0]
    tight = on_paper(blueprint, whole.whole - 1)
    assert not tight.fits and tight.positions_that_fit == 4 * 128 - 64, "one block less than all of them"
    assert on_paper(blueprint, whole.whole).positions_that_fit == 4 * 128
    assert on_paper(blueprint, whole.needs.weights).positions_that_fit == 0


def test_given_blocks_and_memory_are_kept(tmp_path: Path) -> None:
    blueprint = drawn(tmp_path, "rope", engine_settings={"kv_blocks": 7})
    assert on_paper(blueprint, GIB).num_blocks == 7
    block = 64 * blueprint.position_bytes
    blueprint = drawn(tmp_path, "rope", engine_settings={"kv_memory": 3 * block})
    assert on_paper(blueprint, GIB).num_blocks == 3
    halved = replace(blueprint, mesh=make_mesh(blueprint.source.config, 2, 1))
    assert on_paper(halved, GIB).num_blocks == 6, "of half the bytes each"
    tight = replace(halved, engine_config=replace(halved.engine_config, kv_memory=block // 2))
    found = smallest_layout(tight, GIB)
    assert found is not None and (found.mesh.tp, found.num_blocks) == (2, 1), "one rank has no room for a block"


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
@pytest.mark.alone
def test_the_largest_recipe_is_counted_in_a_moment() -> None:
    blueprint = draw(Choices("gpt-175b", quant="int8", tp=8, pp=2))
    begun = time.process_time()
    paper, smallest = on_paper(blueprint, 80 * GIB), smallest_layout(blueprint, 80 * GIB)
    assert time.process_time() - begun < 1.5
    assert len(paper.ranks) == 16 and sum(one.needs.weights for one in paper.ranks) > 174e9
    assert smallest is not None and (smallest.mesh.tp, smallest.mesh.pp) == (4, 1)


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
@pytest.mark.alone
def test_so_is_that_it_fits_nowhere() -> None:
    """Of hundreds of ranks the leader has no room for what it says to them."""
    blueprint = draw(Choices("gpt-175b", quant="int8"))
    begun = time.process_time()
    assert smallest_layout(blueprint, GIB) is None
    assert time.process_time() - begun < 10
