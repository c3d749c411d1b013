"""An operation read by a box gives that box of the whole, asks for the bytes of it and no others, and can be read backwards."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.checkpoint.box import Box, Shape, boxes_of, shape_of, stretches, whole
from brigade.checkpoint.operations import (
    Misfit,
    Operation,
    inverted,
    joined,
    padded,
    per_head_qkv,
    stacked,
    take,
    transposed,
    weight_and_bias,
    with_prefix,
)
from brigade.checkpoint.tensor_source import Counted
from brigade.mesh import Cut
from tests.checkpoint.tensors_in_memory import InMemory, cut_out

SMALL = st.integers(1, 5)
Tensors = dict[str, torch.Tensor]


def numbered(*shape: int, first: int = 0) -> torch.Tensor:
    """Every element another number, so that a wrong one is seen."""
    return torch.arange(first, first + math.prod(shape), dtype=torch.float32).reshape(shape)


class Drawing:
    """Operations in each other, with tensors that fit them and the numbers 0, 1, 2, ... in these."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.names, self.tensors = draw, count(), dict[str, torch.Tensor]()

    def of(self, shape: Shape, depth: int = 2) -> Operation:
        """One that makes this shape."""
        rows = shape[0]
        kinds = ["take"]
        if depth:
            kinds += ["padded"] + ["transposed"] * (len(shape) == 2) + ["joined"] * (rows > 1) + ["per_head"] * (rows % 3 == 0)
            kinds += ["stacked"] * (len(shape) == 3)
        kind = self.draw(st.sampled_from(kinds))
        if kind == "take":
            name = f"t{next(self.names)}"
            held = sum(tensor.numel() for tensor in self.tensors.values())
            self.tensors[name] = numbered(*shape, first=held)
            return take(name)
        if kind == "padded":
            more = self.draw(SMALL)
            return padded(self.of((rows + more, *shape[1:]), depth - 1), rows, rows + more)
        if kind == "transposed":
            return transposed(self.of(shape[::-1], depth - 1))
        if kind == "stacked":
            return stacked([self.of(shape[1:], depth - 1) for _ in range(rows)])
        if kind == "per_head":
            heads = self.draw(st.sampled_from([n for n in range(1, rows // 3 + 1) if rows // 3 % n == 0]))
            return per_head_qkv(self.of(shape, depth - 1), heads)
        first = self.draw(st.integers(1, rows - 1))
        parts = (first, rows - first)
        return joined(*(self.of((size, *shape[1:]), depth - 1) for size in parts), rows=parts)


@st.composite
def operations(draw: st.DrawFn) -> tuple[Operation, Tensors, Shape]:
    shape = (draw(st.sampled_from([1, 2, 3, 4, 6, 12])), *draw(st.lists(SMALL, max_size=2)))
    drawing = Drawing(draw)
    return drawing.of(shape), drawing.tensors, shape


def boxes(shape: Shape) -> st.SearchStrategy[Box]:
    def run(size: int) -> st.SearchStrategy[tuple[int, int]]:
        return st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(lambda ends: (min(ends), max(ends[1], ends[0] + 1)))

    return st.tuples(*map(run, shape))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_box_of_any_operation_is_that_box_of_the_whole(data: st.DataObject) -> None:
    operation, tensors, shape = data.draw(operations())
    source = InMemory(tensors)
    assert operation.shape(source.shape) == shape and set(operation.names) == set(tensors)
    parameter = operation.read(whole(shape), source)
    assert parameter.shape == shape

    box = data.draw(boxes(shape))
    asked, source.reads = source.asked, []
    found = operation.read(box, source)
    assert torch.equal(found, cut_out(parameter, box))
    # Its own bytes: as many as it has, and all of them other ones.
    assert source.asked - asked == found.numel() * 4 == sum(math.prod(shape_of(part)) * 4 for _, part in source.reads)
    # And what would be read is known without reading.
    counted = Counted(source)
    assert operation.read(box, counted).is_meta and counted.asked == found.numel() * 4


@given(operations())
@settings(max_examples=100, deadline=None)
def test_read_backwards_it_gives_the_tensors_again(made: tuple[Operation, Tensors, Shape]) -> None:
    operation, tensors, shape = made
    source = InMemory(tensors)
    parameter = operation.read(whole(shape), source)
    back = operation.invert(parameter)
    assert {name: tensor.shape for name, tensor in back.items()} == {name: tensor.shape for name, tensor in tensors.items()}
    # Filling rows, which no parameter has, are zeros. All else is what it was.
    ours = set(parameter.flatten().tolist())
    for name, tensor in tensors.items():
        expected = torch.tensor([x if x in ours else 0.0 for x in tensor.flatten().tolist()]).view(tensor.shape)
        assert torch.equal(back[name], expected), name
    assert torch.equal(operation.read(whole(shape), InMemory(back)), parameter)


def test_each_in_numbers() -> None:
    """What each makes, written out once."""
    source = InMemory({"a": numbered(2, 2), "b": numbered(1, 2, first=10), "qkv": numbered(6, 1), "pad": numbered(5, 1)})

    def read(operation: Operation) -> list:
        return operation.read(whole(operation.shape(source.shape)), source).tolist()

    assert read(take("a")) == [[0, 1], [2, 3]]
    assert read(transposed("a")) == [[0, 2], [1, 3]]
    assert read(joined("a", "b")) == [[0, 1], [2, 3], [10, 11]]
    assert read(per_head_qkv("qkv", 2)) == [[0], [3], [1], [4], [2], [5]]  # q of both heads, k of both, v of both
    assert read(stacked([("b", "b"), ("a",)])) == [[[10, 11], [10, 11]], [[0, 1], [2, 3]]]
    assert read(padded("pad", 3, 5)) == [[0], [1], [2]]


def test_filling_rows_are_not_read_and_are_written_as_zeros() -> None:
    """As Megatron pads its vocabulary; also where the padded tensor is one of several."""
    operation, source = padded("word", 3, 8), InMemory({"word": numbered(8, 2)})
    assert operation.read(((1, 3), (0, 2)), source).tolist() == [[2, 3], [4, 5]] and source.reads == [("word", ((1, 3), (0, 2)))]
    assert operation.invert(numbered(3, 2))["word"].tolist() == [[0, 1], [2, 3], [4, 5], *[[0, 0]] * 5]
    bias = padded("bias", 3, 4).invert(numbered(3, first=1))["bias"]
    assert bias.tolist() == [1, 2, 3, 0]
    with pytest.raises(Misfit, match="word"):
        padded("word", 3, 16).shape(source.shape)  # the file has other filling
    with pytest.raises(Misfit):
        padded("word", 9, 8).shape(source.shape)


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        (joined("a", "b"), ("a", "b")),
        (joined("a", "a", rows=(1, 3)), ("a", "a")),
        (per_head_qkv("a", 1), ("a",)),
        (per_head_qkv("scalar", 1), ("scalar",)),
        (stacked(["c", "a"]), ("c", "a")),
        (joined("a", "scalar"), ("a", "scalar")),
    ],
)
def test_shapes_that_do_not_go_together_are_named(operation: Operation, names: tuple[str, ...]) -> None:
    shapes = {"a": (2, 3), "b": (2, 4), "c": (1, 3), "scalar": ()}
    with pytest.raises(Misfit) as refused:
        operation.shape(shapes.__getitem__)
    assert refused.value.names == names


def test_of_many_experts_the_two_that_differ_are_named() -> None:
    shapes = {f"e{i}": (2, 3 + (i == 70)) for i in range(128)}
    with pytest.raises(Misfit) as refused:
        stacked([f"e{i}" for i in range(128)]).shape(shapes.__getitem__)
    assert refused.value.names == ("e0", "e70")


def test_rows_that_nobody_told_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="give joined"):
        joined("q", "k", "v").invert(numbered(6, 2))
    assert list(joined("q", "k", "v", rows=2).invert(numbered(6, 2))) == ["q", "k", "v"]


def test_a_table_is_written_out_and_read_backwards() -> None:
    table = with_prefix(weight_and_bias("up", transposed, "@fc", True) | {"head": take("lm@head")}, "model.")
    assert {ours: operation.names for ours, operation in table.items()} == {
        "up.weight": ("model.fc.weight",), "up.bias": ("model.fc.bias",), "head": ("lm@head",),
    }  # fmt: skip
    back = dict(inverted(table, {"up.weight": numbered(3, 2), "up.bias": numbered(3), "head": numbered(1)}))
    assert {name: tuple(tensor.shape) for name, tensor in back.items()} == {
        "model.fc.weight": (2, 3), "model.fc.bias": (3,), "lm@head": (1,),
    }  # fmt: skip


@given(st.lists(SMALL, max_size=4).flatmap(lambda shape: st.tuples(st.just(tuple(shape)), boxes(tuple(shape)))))
@settings(max_examples=100, deadline=None)
def test_a_box_lies_in_the_stretches_that_are_said(made: tuple[Shape, Box]) -> None:
    shape, box = made
    starts, length = stretches(shape, box)
    lie = [start + i for start in starts.tolist() for i in range(length)]
    assert lie == cut_out(numbered(*shape), box).flatten().int().tolist()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (((0, 4), (0, 5), (0, 6)), (1, 120)),
        (((1, 3), (0, 5), (0, 6)), (1, 60)),
        (((1, 2), (2, 4), (0, 6)), (1, 12)),
        (((1, 3), (2, 4), (0, 6)), (2, 12)),
        (((1, 3), (2, 4), (1, 3)), (4, 2)),
        (((1, 2), (2, 3), (1, 3)), (1, 2)),
    ],
)
def test_neighbours_are_one_stretch(box: Box, expected: tuple[int, int]) -> None:
    starts, length = stretches((4, 5, 6), box)
    assert (len(starts), length) == expected


@pytest.mark.parametrize("shape", [(6, 4), (6,), (2, 6, 4)])
@pytest.mark.parametrize("cut", [None, Cut(-2, ((0, 1), (3, 4))), Cut(-1, ((1, 4),))])
def test_a_share_is_its_boxes(shape: Shape, cut: Cut | None) -> None:
    tensor = numbered(*shape)
    axis, parts = boxes_of(cut, shape)
    assert torch.equal(torch.cat([cut_out(tensor, box) for box in parts], axis), tensor if cut is None else cut.of(tensor))
