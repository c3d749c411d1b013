"""Products on a GPU. Every output is summed along K alone and in order, one multiply-add after the other, so that neither the other
rows and outputs nor the tile it falls into show in its bits. The library's own products choose their algorithm by the shape.

Needs Triton, which torch brings with it wherever it can use such a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

K_AT_ONCE = 32
FEW_ROWS = 16  # the least that Triton multiplies at once
TILES = {True: (FEW_ROWS, 32, 2), False: (64, 64, 4)}  # rows, outputs and warps of a program, by whether there are few rows


@triton.jit
def _multiply(
    x, w, out, m, n, k, x_batch, x_row, x_k, w_batch, w_out, w_k,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outs = tl.program_id(1).to(tl.int64) * OUTS + tl.arange(0, OUTS)
    depth = tl.arange(0, DEPTH).to(tl.int64)
    sums = tl.zeros((ROWS, OUTS), dtype=tl.float32)
    for first in range(0, k, DEPTH):
        is_k = first + depth < k
        at_x = x + batch * x_batch + rows[:, None] * x_row + (first + depth)[None, :] * x_k
        at_w = w + batch * w_batch + outs[None, :] * w_out + (first + depth)[:, None] * w_k
        a = tl.load(at_x, mask=(rows < m)[:, None] & is_k[None, :], other=0.0)
        b = tl.load(at_w, mask=(outs < n)[None, :] & is_k[:, None], other=0.0)
        sums = tl.dot(a, b, sums, input_precision="ieee")
    place = out + batch * m * n + rows[:, None] * n + outs[None, :]
    tl.store(place, sums, mask=(rows < m)[:, None] & (outs < n)[None, :])


def multiply(x_BMK: Tensor, weight_BNK: Tensor) -> Tensor:
    """[B, M, N] in float32. Either may be a view that lies any way in memory."""
    batches, m, k = x_BMK.shape
    n = weight_BNK.shape[1]
    out = torch.empty(batches, m, n, dtype=torch.float32, device=x_BMK.device)
    rows, outs, warps = TILES[m <= FEW_ROWS]
    most = 1 << 15  # of a grid's third axis there are fewer than 1 << 16
    with torch.cuda.device(x_BMK.device):
        for first in range(0, batches, most):
            part, x, w = slice(first, first + most), x_BMK[first : first + most], weight_BNK[first : first + most]
            grid = (triton.cdiv(m, rows), triton.cdiv(n, outs), x.shape[0])
            _multiply[grid](
                x, w, out[part], m, n, k, *x.stride(), *w.stride(), ROWS=rows, OUTS=outs, DEPTH=K_AT_ONCE, num_warps=warps
            )  # fmt: skip
    return out


class GpuMatmul:
    name, row_quantum = f"ordered-triton-{triton.__version__}", 1  # how multiply and add are put together is the compiler's affair

    def __call__(self, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        return multiply(x_MK[None], weight_NK[None])[0]
