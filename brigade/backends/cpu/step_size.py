"""How much memory a step takes beside weights and cache: scratch memory of the kernels, which stays once it was needed, and rows
that lie between two calls. A test holds it against what the kernels take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from brigade.backends.cpu.library import kernels
from brigade.backends.cpu.matrix import SUMMED, Layout
from brigade.backends.cpu.stack import FEW_ROWS
from brigade.backends.step_size import experts_numbers, logits_numbers
from brigade.mesh import PANEL

if TYPE_CHECKING:
    from brigade.backends.base import LargestStep

SLICE_ROWS, BLOCK_ROWS, HUGE_PAGE = 512, 32, 2 << 20  # of csrc/layer.cpp, path.h and kernels.h
LEFT_BYTES = {"float32": 4, "int8": 1, "int4-int8": 1}  # of an element of a left operand; the others are bfloat16 numbers
EXPANDED = {"int8-weight": 2, "int4": 2, "int4-int8": 1}  # bytes of a number that is not multiplied as it is held
PARTS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
ENDS = ("head", "project_out")  # which meet the wanted rows alone


def step_bytes(model: Any, layouts: Mapping[str, Layout], step: LargestStep, threads: int) -> int:
    """`layouts`: of every packed matrix of this model."""
    native = list(_native(model, layouts, min(step.tokens, SLICE_ROWS)))
    rooms = {name: max(room.get(name, 0) for room in native) for room in native for name in room}
    single = {True: 0, False: 0}  # matrices that are called one by one: whether their K is cut
    for name, layout in layouts.items():
        if not name.endswith(PARTS):
            rows, is_cut = step.requests if name in ENDS else step.tokens, layout.share > 1
            single[is_cut] = max(single[is_cut], _left(layout, rows))
    rows_of = {name: step.requests if name in ENDS else step.tokens for name in layouts}
    expanded = max((_expanded(layout) for name, layout in layouts.items() if rows_of[name] > BLOCK_ROWS), default=0)
    ends = 2 * _scratch(4 * min(step.tokens, FEW_ROWS) * model.config.hidden_size)  # before and after the last norm (stack.cpp)
    between = max(_rows(model, step), 4 * logits_numbers(model, step.requests))
    return sum(map(_scratch, [*rooms.values(), *single.values()])) + ends + threads * _scratch(expanded) + between


def _native(model: Any, layouts: Mapping[str, Layout], rows: int) -> Iterator[dict[str, int]]:
    """What each layer asks for, by purpose (`Room` in csrc/layer.cpp)."""
    config = model.held.config(model.config)
    for index in model.held.layers:
        qkv, out, up, down = (layouts.get(f"layers.{index}.{part}") for part in PARTS)
        if qkv is None or out is None:
            continue
        picked = index == model.config.num_layers - 1  # of the last layer only the wanted rows go on
        room = {
            "left": _left(qkv, rows), "mixed": _left(out, rows), "qkv": 4 * rows * qkv.n, "part": 4 * rows * config.hidden_size,
            "sums": 4 * rows * config.hidden_size if out.share > 1 else 0,
            "heads": 0 if _takes_packed(out) and config.head_dim % 16 == 0 and not picked else 4 * rows * out.k,
        }  # fmt: skip
        if up is not None and down is not None:
            room["left"] = max(room["left"], _left(up, rows))
            room["mixed"] = max(room["mixed"], _left(down, rows))
            room["wide"] = 0 if _takes_packed(down) and down.k % 16 == 0 else 4 * rows * down.k
        yield room


def _rows(model: Any, step: LargestStep) -> int:
    """What lies in tensors: the residual stream and what is about to take its place, and all that experts make of it."""
    config, tp = model.held.config(model.config), model.held.tp
    numbers = step.tokens * config.hidden_size * (3 if tp > 1 and model.held.is_first else 2)
    if any(config.is_moe(i) for i in model.held.layers):
        assert config.moe is not None
        gate = 2 if config.gated else 1
        products = config.moe.top_k * config.hidden_size * (2 if tp > 1 else 1)
        numbers += experts_numbers(config, step.tokens, (gate + 2) * config.moe.expert_ffn_size, products)
    return 4 * numbers


def _left(layout: Layout, rows: int) -> int:
    each = LEFT_BYTES.get(layout.scheme) or (4 if kernels().br_bf16_name() == b"bf16-fma" else 2)  # `Rows::wide` in csrc/path.h
    return -(-rows // BLOCK_ROWS) * BLOCK_ROWS * layout.blocks * layout.block_k * each


def _expanded(layout: Layout) -> int:
    """A panel of which each thread makes numbers that can be multiplied (`multiply` in csrc/matmul.cpp)."""
    return PANEL * layout.blocks * layout.block_k * EXPANDED.get(layout.scheme, 0)


def _takes_packed(layout: Layout) -> bool:
    return layout.scheme not in SUMMED and layout.k == layout.blocks * layout.block_k


def _scratch(size: int) -> int:
    """A quarter more than was asked for, in whole pages, all of them written."""
    page = HUGE_PAGE if size >= HUGE_PAGE else 4096
    return -(-(size + size // 4) // page) * page
