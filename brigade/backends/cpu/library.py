"""The compiled kernels and the structs of `csrc/brigade.h`, as ctypes sees them. Nothing of torch's binary interface is used."""

from __future__ import annotations

import ctypes as c
import functools
import os
from pathlib import Path

from brigade.errors import ConfigError

HERE = Path(__file__).parent
PATHS = ("amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable")


def _struct(name: str, fields: str) -> type[c.Structure]:
    """`i:a,b f:c p:d` is two int32, a float and a pointer."""
    types = {"i": c.c_int32, "f": c.c_float, "p": c.c_void_p}
    pairs = [
        (field, types[kind] if kind in types else _NAMED[kind])
        for kind, names in (part.split(":") for part in fields.split())
        for field in names.split(",")
    ]
    made = type(name, (c.Structure,), {"_fields_": pairs})
    _NAMED[name] = made
    return made


_NAMED: dict[str, type[c.Structure]] = {}


class BrAhead(c.Structure):
    MOST = 8
    _fields_ = (("data", c.c_void_p * MOST), ("bytes", c.c_int64 * MOST), ("count", c.c_int64))


BrMatrix = _struct("BrMatrix", "i:kind,n,k,blocks,block_k,group,gated,activation p:data,scale,colsum,bias,ahead")
BrNorm = _struct("BrNorm", "i:kind,size f:eps i:pad p:weight,bias")
BrAttention = _struct(
    "BrAttention",
    "i:heads,kv_heads,dim,window f:scale,softcap,clip i:rotary,interleaved,norm_heads p:cos,sin,q_norm,k_norm",
)
BrStep = _struct("BrStep", "i:rows,spans,block_size,kv_bf16 p:positions,span_row,span_table,blocks")
BrLayer = _struct(
    "BrLayer",
    "BrNorm:attention_norm,mlp_norm,attention_post,mlp_post i:has_attention_post,has_mlp_post,norm_after,parallel,has_mlp,pad "
    "BrAttention:attention BrMatrix:qkv,out,up,down",
)

_I, _P, _L, _F = c.c_int, c.c_void_p, c.c_int64, c.c_float
SIGNATURES = {
    "br_choose_path": ([c.c_char_p], _I),
    "br_threads": ([_I, _I], _I),
    "br_pin": ([_P, _I], _I),
    "br_pool_size": ([], _I),
    "br_pack_size": ([_P, _P, _P], None),
    "br_pack": ([_P, _P, _P, _P, _P], None),
    "br_unpack": ([_P, _P], None),
    "br_linear": ([_P, _P, _I, _P], None),
    "br_norm": ([_P, _P, _I, _P], None),
    "br_rotate": ([_P, _I, _I, _I, _P, _P, _P, _I, _I], None),
    "br_activate": ([_I, _P, _L, _P], None),
    "br_softcap": ([_P, _L, _F], None),
    "br_softmax": ([_P, _I, _I, _P], None),
    "br_attend": ([_P, _P, _P, _P, _P, _P, _P, _P], None),
    "br_layer": ([_P, _P, _P, _P, _P], None),
    "br_last_layer": ([_P, _P, _P, _P, _P, _P, _I, _P], None),
    "br_weigh": ([_P, _I, _I, _P, _P, _P, _P], None),
    "br_draw": ([_P, _I, _I, _P, _P, _P], None),
    "br_embed": ([_P, _P, _I, _P, _I, _I, _P], None),
    "br_read_bandwidth": ([_P, _L], c.c_double),
    "br_describe": ([], c.c_char_p),
    "br_path": ([], c.c_char_p),
    "br_bf16_name": ([], c.c_char_p),
}


@functools.cache
def find_kernels() -> Path | None:
    """The library that the package's build left beside this file, if there was a compiler. `BRIGADE_KERNELS` names another
    build of the same sources, such as one with sanitizers."""
    other = os.environ.get("BRIGADE_KERNELS")
    if other:
        if not Path(other).is_file():
            raise ConfigError(f"BRIGADE_KERNELS is {other!r}, which is no file; name a build of the kernels, or unset it")
        return Path(other)
    return next(iter(sorted(HERE.glob("_kernels*.so"))), None)


@functools.cache
def kernels() -> c.CDLL:
    path = find_kernels()
    if path is None:
        raise ConfigError("the cpu backend was not built (no C++ compiler at install); install one and install brigade again")
    try:
        library = c.CDLL(str(path))
        for name, (arguments, result) in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
    except (OSError, AttributeError) as error:
        own = path.parent == HERE
        remedy = "install brigade again" if own else "name a build of these sources in BRIGADE_KERNELS, or unset it"
        raise ConfigError(f"{path} holds no kernels of this version ({error}); {remedy}") from error
    return library


def choose_path(name: str) -> None:
    """Use one set of instructions; the empty name is the best there is. For tests, and for machines that must agree."""
    if kernels().br_choose_path(name.encode()) != 0:
        raise ConfigError(f"this processor has no path {name!r}; choose one of {', '.join(available_paths())}")


@functools.cache
def available_paths() -> tuple[str, ...]:
    """The paths this processor can take, best first."""
    library, used = kernels(), kernels().br_path()
    found = tuple(name for name in PATHS if library.br_choose_path(name.encode()) == 0)
    library.br_choose_path(used)
    return found
