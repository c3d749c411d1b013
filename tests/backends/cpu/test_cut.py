"""A part of a packed matrix is what the same part of its numbers is packed to; a rank's packer finds it in either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from brigade.backends.cpu.library import find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.cut import cut_matrix, lying_part, on_panel_border
from brigade.backends.cpu.matrix import KINDS, SPANNING, SUMMED, Layout, PackedMatrix, Panels, pack
from brigade.backends.cpu.packed_size import packed_sizes
from brigade.backends.cpu.packer import PackedModel, Packer
from brigade.backends.cpu.quant import Quant
from brigade.backends.registry import get_backend
from brigade.config import MoEConfig
from brigade.errors import CheckpointError
from brigade.mesh import Cut
from tests.backends.cpu.ranks import Meeting, ThreadExchange, Whole, empty_part, in_ranks, make_model, random_weights
from tests.backends.cpu.test_ranks_of_a_layer import BASE, FORMATS

SCHEMES = tuple(KINDS)


def dense(array):
    return array.copied() if isinstance(array, Panels) else array


def same_bytes(a: PackedMatrix, b: PackedMatrix) -> bool:
    """In every array, with what fills them up."""
    pairs = list(zip(map(dense, a.arrays), map(dense, b.arrays), strict=True))
    assert [x is None for x, _ in pairs] == [y is None for _, y in pairs]
    return a.layout == b.layout and all(np.array_equal(x.view(np.uint8), y.view(np.uint8)) for x, y in pairs if x is not None)


def numbers(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator), torch.randn(n, generator=generator)


def column_sums(matrix: PackedMatrix) -> Tensor:
    """Of the integers that a matrix holds, by its scale."""
    scale = torch.from_numpy(matrix.arrays[1][: matrix.layout.n]).double()
    return (matrix.unpack().double() / scale[:, None]).round().sum(1)


@st.composite
def column_cuts(draw) -> tuple[int, int, bool, Cut]:
    """Outputs, K, whether they are gated, and runs of outputs: of gate and up the same ones."""
    n, gated = draw(st.integers(1, 150)), draw(st.booleans())
    borders = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=6, unique=True)))[: draw(st.sampled_from([2, 4, 6]))]
    runs = tuple(zip(borders[::2], borders[1::2], strict=False))
    if gated:
        runs = (*runs, *((n + a, n + b) for a, b in runs))
    return 2 * n if gated else n, draw(st.integers(1, 300)), gated, Cut(-2, runs)


@given(size=column_cuts(), scheme=st.sampled_from(SCHEMES), tree=st.booleans(), group=st.sampled_from([32, 128]))
@settings(max_examples=150, deadline=None)
def test_outputs_that_are_cut_out_have_the_bytes_of_their_own_packing(size, scheme: str, tree: bool, group: int) -> None:
    n, k, gated, cut = size
    how = {"gated": gated, "activation": "silu" if gated else None, "group": group, "tree": tree}
    weight, bias = numbers(n, k, 1)
    part = cut_matrix(pack(weight, bias, scheme, **how), cut)
    assert same_bytes(part, pack(cut.of(weight), cut.of(bias), scheme, **how))


@given(
    scheme=st.sampled_from(SCHEMES), n=st.integers(1, 90), block=st.integers(1, 200), share=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([32, 64, 128]), data=st.data(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_run_of_k_is_whole_blocks_with_the_scales_of_the_whole(scheme, n, block, share, group, data) -> None:
    weight, bias = numbers(n, 8 * block, 2)
    whole, size = pack(weight, bias, scheme, tree=True, group=group), 8 * block // share
    rank = data.draw(st.integers(0, share - 1))
    cut = Cut(-1, ((rank * size, (rank + 1) * size),))
    part = cut_matrix(whole, cut)
    assert part.layout.blocks == 8 // share and part.layout.block_k == whole.layout.block_k
    assert torch.equal(part.unpack(), whole.unpack()[:, rank * size : (rank + 1) * size])
    assert torch.equal(torch.from_numpy(part.arrays[3])[:n], bias)  # of a sum over all ranks, added once
    if scheme in SUMMED:
        assert torch.equal(torch.from_numpy(part.arrays[2])[:n].double(), column_sums(part))
    if scheme not in SPANNING:
        assert same_bytes(part, pack(cut.of(weight), bias, scheme, tree=True, group=group, share=share))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_threads_panels_are_cut(scheme: str) -> None:
    """Many panels, whole ones and others, by a pool of threads."""
    kernels().br_threads(2, -1)
    weight, bias = numbers(1200, 96, 3)
    for runs in (((0, 640), (672, 1184)), ((5, 500), (501, 1200))):
        part = cut_matrix(pack(weight, bias, scheme, tree=False), Cut(-2, runs))
        assert same_bytes(part, pack(Cut(-2, runs).of(weight), Cut(-2, runs).of(bias), scheme, tree=False))


def test_a_scale_of_the_whole_column_is_not_that_of_its_part() -> None:
    """Guards the case that needs the whole column: here a part's own packing has other numbers."""
    weight, _ = numbers(32, 256, 4)
    weight[:, 200] *= 9
    cut = Cut(-1, ((0, 128),))
    for scheme in SCHEMES:
        part, own = cut_matrix(pack(weight, None, scheme, tree=True), cut), pack(cut.of(weight), None, scheme, tree=True, share=2)
        assert same_bytes(part, own) == (scheme not in SPANNING)


def test_a_share_without_whole_blocks_cannot_be() -> None:
    assert [Layout("float32", 8, 40 // share, True, share=share).blocks for share in (1, 2, 4, 8)] == [8, 4, 2, 1]
    assert [Layout("float32", 8, 12 // share, True, share=share).blocks for share in (1, 2, 4)] == [4, 2, 1]
    for k, tree, share in ((1, True, 16), (1, True, 3), (5, True, 3), (64, False, 2)):
        with pytest.raises(AssertionError, match="no whole blocks"):
            Layout("float32", 8, k, tree, share=share)


def test_a_cut_on_panel_borders_is_told_from_one_that_is_put_together_anew() -> None:
    plain, gated = Layout("bfloat16", 200, 64), Layout("bfloat16", 200, 64, gated=True)
    for layout, runs, expected in (
        (plain, ((0, 64),), True), (plain, ((64, 200),), True), (plain, ((32, 64), (128, 160)), True),
        (plain, ((0, 50),), False), (plain, ((16, 48),), False), (plain, ((0, 32), (40, 72)), False),
        (gated, ((0, 48), (100, 148)), True), (gated, ((48, 100), (148, 200)), True), (gated, ((0, 50), (100, 150)), False),
        (gated, ((16, 32), (132, 148)), False),
    ):  # fmt: skip
        assert on_panel_border(layout, Cut(-2, runs)) is expected, (layout, runs)
    assert on_panel_border(Layout("int8", 33, 64, tree=True), Cut(-1, ((16, 32),)))


CONFIG = replace(BASE, moe=MoEConfig(num_experts=3, top_k=2, expert_ffn_size=32, shared_ffn_size=16, layers=(1,)), mlp_bias=True)


def prepared(weights, scheme: str, size: int = 2) -> list[PackedModel]:
    """What every rank holds."""
    return in_ranks(size, lambda exchange: make_model(CONFIG, weights, scheme, exchange).packed)


@pytest.mark.parametrize("dtype, scheme", FORMATS, ids=map("-".join, FORMATS))
def test_a_part_of_an_artifact_is_the_part_of_its_weights(dtype: str, scheme: str) -> None:
    """Both from the same whole: each rank's share read and packed, or everything packed once for all."""
    weights = random_weights(CONFIG, getattr(torch, dtype))
    ready = make_model(CONFIG, weights, scheme).packed
    for size in (2, 4, 8):
        for read, taken in zip(prepared(weights, scheme, size), prepared(ready, scheme, size), strict=True):
            assert set(read.matrices) == set(taken.matrices) == set(ready.matrices)
            assert all(same_bytes(matrix, taken.matrices[name]) for name, matrix in read.matrices.items())
            assert read.matrices["layers.0.attention.out"].layout.share == size
            assert read.matrices["layers.1.mlp.experts.down.2"].layout.share == size


class Asked(Whole):
    """Notes how many numbers are read."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.numbers: dict[str, int] = {}

    def take(self, name: str, cut: Cut | None = None) -> Tensor:
        found = super().take(name, cut)
        self.numbers[name] = found.numel()
        return found

    def take_part(self, name: str, index: int, cut: Cut | None = None) -> Tensor:
        found = super().take_part(name, index, cut)
        self.numbers[f"{name}.{index}"] = found.numel()
        return found


@pytest.mark.parametrize("scheme", ["none", "int8", "int4-int8"])
def test_a_rank_asks_for_its_share_of_every_matrix(scheme: str) -> None:
    """Also where a scale spans the whole column. The exchanges are the same on all ranks: one a matrix that has such scales."""
    tensors = random_weights(CONFIG).tensors

    def live(exchange: ThreadExchange) -> tuple[dict[str, int], list]:
        asked = Asked(tensors)
        model = make_model(CONFIG, asked, scheme, exchange)
        for name, cut in model.cuts.items():
            for key in [f"{name}.{i}" for i in range(3)] if "experts" in name else [name]:
                whole = tensors[name][0] if "experts" in name else tensors[name]
                assert asked.numbers[key] == cut.of(whole).numel() == whole.numel() * cut.size // whole.shape[cut.axis]
        return asked.numbers, exchange.calls

    found = in_ranks(4, live)
    assert all(calls == found[0][1] for _, calls in found)
    assert len(found[0][1]) == (
        0 if scheme == "none" else 2 + 1 + 3 + 1
    )  # out twice, down, those of three experts and the shared one


@given(
    scheme=st.sampled_from(SCHEMES), n=st.integers(1, 90), block=st.integers(1, 150), size=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([32, 128]), odd=st.sampled_from(["nothing", "zeros", "NaN", "both"]), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_shares_along_k_are_packed_as_the_whole_is(scheme, n, block, size, group, odd, bias) -> None:
    """Each rank has its columns of K alone, and the greatest numbers of the whole from an exchange: the bytes are those of the
    whole that is packed and then cut."""
    weight, biases = numbers(n, 8 * block, 6)
    weight[:, ::3] *= 5
    if odd in ("zeros", "both"):
        weight[0] = 0
    if odd in ("NaN", "both"):
        weight[n // 2, 3 * block] = float("nan")
    how = {"tree": True, "group": group}
    whole, each = pack(weight, biases if bias else None, scheme, **how), 8 * block // size
    cuts = [Cut(-1, ((rank * each, (rank + 1) * each),)) for rank in range(size)]

    def live(exchange: ThreadExchange) -> PackedMatrix:
        own = cuts[exchange.rank].of(weight)
        return pack(own, biases if bias else None, scheme, share=size, maximum=exchange.maximum, **how)

    for cut, part in zip(cuts, in_ranks(size, live), strict=True):
        assert same_bytes(part, cut_matrix(whole, cut)) and same_bytes(part, lying_part(whole, cut))


@pytest.mark.parametrize("dtype, scheme", FORMATS, ids=map("-".join, FORMATS))
def test_the_plan_of_a_part_is_what_its_packing_makes(dtype: str, scheme: str) -> None:
    made = prepared(random_weights(CONFIG, getattr(torch, dtype)), scheme, size=4)[0]
    backend = get_backend("cpu")
    if scheme != "none":
        backend.quantise(scheme)
    empty = empty_part(CONFIG, backend, ThreadExchange(0, Meeting(4)))
    held = [matrix.nbytes for matrix in made.matrices.values()] + [t.nbytes for t in made.tensors.values()]
    assert sum(packed_sizes(empty, backend.quant, getattr(torch, dtype)).values()) == sum(held)


def test_without_cuts_an_artifacts_matrices_are_taken_as_they_lie() -> None:
    ready = make_model(CONFIG, random_weights(CONFIG)).packed
    taken = make_model(CONFIG, ready).packed
    for name, matrix in ready.matrices.items():
        arrays = zip(taken.matrices[name].arrays, matrix.arrays, strict=True)
        assert all(one is other for one, other in arrays) and taken.matrices[name].layout == matrix.layout


def test_a_word_table_that_is_cut_is_the_head_too() -> None:
    """A tied head is packed from this rank's rows; from an artifact it is cut out of the whole head."""
    config = replace(BASE, tied_head=True)
    weights, cut = random_weights(config, torch.bfloat16), Cut(-2, ((32, 61),))
    whole = make_model(config, weights)

    def part_from(source) -> PackedMatrix:
        backend = get_backend("cpu")
        backend.exchange = ThreadExchange(0, Meeting(2))
        model = empty_part(config, backend, backend.exchange)
        model.cuts["embedding.word"] = cut
        model.embedding.word = torch.nn.Parameter(torch.empty(29, 40, device="meta"), requires_grad=False)
        if isinstance(source, Whole):
            backend.prepare(model, source)
            assert model.embedding.word.table_VH.untyped_storage().nbytes() == 29 * 40 * 2  # nothing else stays in memory
        else:
            placed = {name: cut.of(t) if name == "embedding.word" else t for name, t in source.tensors.items()}
            model.load_state_dict(placed, strict=False, assign=True)
            backend.adopt(model, source)
        assert model.embedding.word.shape == (29, 40)
        return model.packed.matrices["head"]

    expected = pack(weights.take("embedding.word")[32:], None, "bfloat16", tree=False)
    assert same_bytes(part_from(weights), expected) and same_bytes(part_from(whole.packed), expected)


@pytest.mark.parametrize(
    "name, spoil",
    [
        ("layers.0.attention.out", {"k": 168}), ("layers.0.attention.out", {"tree": False}), ("layers.0.mlp.up", {"n": 160}),
        ("layers.0.mlp.up", {"gated": False}), ("layers.0.attention.qkv", {"n": 200}), ("layers.0.attention.qkv", {"k": 41}),
        ("layers.1.mlp.experts.down.1", {"n": 39}),
    ],
)  # fmt: skip
def test_an_artifact_whose_whole_is_another_is_refused(name: str, spoil: dict) -> None:
    ready = make_model(CONFIG, random_weights(CONFIG)).packed
    matrix = ready.matrices[name]
    wrong = PackedMatrix.over(replace(matrix.layout, **spoil), matrix.arrays)
    with pytest.raises(CheckpointError, match=f"the artifact holds {name} as .*export it again"):
        prepared(PackedModel(ready.tensors, {**ready.matrices, name: wrong}), "none")


def test_a_packer_cuts_nothing_that_is_in_place_already() -> None:
    weight, cut = numbers(20, 8, 5)[0], {"head.weight": Cut(-2, ((0, 4),))}
    assert same_bytes(Packer(Quant(), cuts=cut)("head", weight, None, tree=False), pack(weight, None, "float32", tree=False))
