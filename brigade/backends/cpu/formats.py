"""What the kernels hold and compute with, in words."""

from __future__ import annotations

from brigade.backends.cpu.matrix import GROUP
from brigade.backends.cpu.quant import HEADS, Quant
from brigade.backends.number_formats import NumberFormats

PLAIN = {"float32": "float32", "bfloat16": "float32 sums of bfloat16 products"}
HELD = {"int8": "int8", "int8-weight": "int8", "int4": f"int4 in groups of {GROUP}", "int4-int8": f"int4 in groups of {GROUP}"}
COMPUTED = {
    "int8": "int32 sums of int8 products", "int8-weight": PLAIN["bfloat16"], "int4": PLAIN["bfloat16"],
    "int4-int8": "int32 sums of int8 products",
}  # fmt: skip


def number_formats(quant: Quant, dtype: str) -> NumberFormats:
    """`dtype` is that of whatever `quant` leaves whole, and of the cache."""
    if quant.scheme == "none":
        return NumberFormats(dtype, PLAIN[dtype], dtype)
    held = HELD[quant.scheme]
    if "head" not in quant.skip:
        held += f", head {HELD[HEADS[quant.scheme]]}"
    if quant.skip:
        held += f", kept in {dtype}: {' '.join(quant.skip)}"
    return NumberFormats(held, COMPUTED[quant.scheme], dtype)
