"""A tensor of a file as the kernels want it, in one pass over its numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from brigade.backends.cpu.library import kernels

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
HALF = {torch.float32: False, torch.bfloat16: True}  # what weights are held in


def hold(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Rounded to `dtype` (float32 or bfloat16) and contiguous; and whether all of its numbers are finite then. What is so already
    is not copied."""
    is_turned = tensor.dim() == 2 and tensor.t().is_contiguous() and not tensor.is_contiguous()
    tensor = tensor if is_turned else tensor.contiguous()
    rows, columns = tensor.shape if is_turned else (1, tensor.numel())
    as_it_is = tensor.dtype == dtype and not is_turned
    held = tensor if as_it_is else torch.empty(tensor.shape, dtype=dtype)
    to = None if as_it_is else held.data_ptr()
    is_finite = kernels().br_hold(
        tensor.data_ptr(), KINDS[tensor.dtype], to, HALF[dtype], rows, columns, is_turned
    )  # fmt: skip
    return held, bool(is_finite)
