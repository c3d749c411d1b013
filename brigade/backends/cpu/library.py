"""The compiled kernels and the structs of `csrc/brigade.h`, as ctypes sees them. Nothing of torch's binary interface is used."""

from __future__ import annotations

import ctypes as c
import functools
import os
import threading
from pathlib import Path

from brigade.errors import ConfigError

HERE = Path(__file__).parent
_once = threading.Lock()
PATHS = ("amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable")


def _struct(name: str, fields: str) -> type[c.Structure]:
    """`i:a,b f:c p:d` is two int32, a float and a pointer; `l` an int64, `d` a double."""
    types = {"i": c.c_int32, "f": c.c_float, "p": c.c_void_p, "l": c.c_int64, "d": c.c_double}
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
    _each = c.c_int64 * MOST
    _fields_ = (("data", c.c_void_p * MOST), ("bytes", _each), ("stride", _each), ("runs", _each), ("count", c.c_int64))


BrMatrix = _struct(
    "BrMatrix",
    "i:kind,n,k,blocks,block_k,group,gated,activation,second,third,to_second,to_third l:panel_stride,scale_stride "
    "p:data,scale,colsum,bias,ahead",
)
BrKeys = _struct("BrKeys", "p:words,shift,scales,times,columns l:steps i:passes,mask")
BrNorm = _struct("BrNorm", "i:kind,size f:eps i:pad p:weight,bias")
BrAttention = _struct(
    "BrAttention",
    "i:heads,kv_heads,dim,window f:scale,softcap,clip i:rotary,interleaved,norm_heads p:cos,sin,q_norm,k_norm",
)
BrStep = _struct("BrStep", "i:rows,spans,block_size,kv_bf16 p:positions,span_row,span_table,blocks")
BrLayer = _struct(
    "BrLayer",
    "BrNorm:attention_norm,mlp_norm,attention_post,mlp_post i:has_attention_post,has_mlp_post,norm_after,parallel,has_mlp,pad "
    "BrAttention:attention BrMatrix:qkv,out,up,down p:exchange",
)
BrStack = _struct("BrStack", "p:layers l:count BrNorm:norm BrMatrix:head l:has_norm,finished")
BrTree = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_int32)
BrMaximum = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_void_p, c.c_int64)


class BrExchange(c.Structure):
    _fields_ = (("rank", c.c_int32), ("size", c.c_int32), ("state", c.c_void_p), ("tree", BrTree), ("maximum", BrMaximum))


BrWait = _struct("BrWait", "p:stop,state l:spins d:seconds")
BrSlots = _struct("BrSlots", "i:rank,size l:slot_bytes p:arrived,data BrWait:wait l:calls,bytes d:seconds i:turn,pad")
BrRing = _struct("BrRing", "p:data l:capacity p:written,read BrWait:wait")

_I, _P, _L, _F = c.c_int, c.c_void_p, c.c_int64, c.c_float
SIGNATURES = {
    "br_choose_path": ([c.c_char_p], _I),
    "br_threads": ([_I, _I], _I),
    "br_pin": ([_P, _I], _I),
    "br_pool_size": ([], _I),
    "br_wake": ([], None),
    "br_read": ([_I, _P, _L, _L, _P], _L),
    "br_hold": ([_P, _I, _P, _I, _L, _L, _I], _I),
    "br_pack_size": ([_P, _P, _P], None),
    "br_lay": ([_P], None),
    "br_column_most": ([_P, _P, c.c_int, _P, _P], None),
    "br_pack": ([_P, _P, c.c_int, _P, _P, _P, _P, _P], None),
    "br_unpack": ([_P, _P], None),
    "br_cut": ([_P, _P, _P, _I], None),
    "br_sum": ([_P, _P], c.c_uint64),
    "br_sum_rows": ([_P, _L, _L, _P, _P, _P], c.c_uint64),
    "br_column_sums": ([_P, _P], None),
    "br_checksum": ([_P, _L, _L, _L], c.c_uint32),
    "br_checksum_by_tables": ([_P, _L], c.c_uint32),
    "br_linear": ([_P, _P, _I, _P], None),
    "br_row_most": ([_P, _I, _I, _P], None),
    "br_linear_part": ([_P, _P, _I, _P, _P, _P], None),
    "br_finish": ([_P, _P, _P, _I, _P], None),
    "br_norm": ([_P, _P, _I, _P], None),
    "br_rotate": ([_P, _I, _I, _I, _P, _P, _P, _I, _I], None),
    "br_activate": ([_I, _P, _L, _P], None),
    "br_softcap": ([_P, _L, _F], None),
    "br_softmax": ([_P, _I, _I, _P], None),
    "br_attend": ([_P, _P, _P, _P, _P, _P, _P, _P], None),
    "br_layer": ([_P, _P, _P, _P, _P], c.c_int32),
    "br_last_layer": ([_P, _P, _P, _P, _P, _P, _I, _P], c.c_int32),
    "br_stack": ([_P, _P, _P, _P, _P, _P, _I, _P], None),
    "br_best": ([_P, _I, _I, _P, _P], _I),
    "br_weigh": ([_P, _I, _I, _P, _P, _P, _P], None),
    "br_draw": ([_P, _I, _I, _P, _P, _P], None),
    "br_embed": ([_P, _P, _I, _P, _I, _I, _P], None),
    "br_slots_attach": ([_P, _P], _I),
    "br_slots_gather": ([_P, _P, _L, _P], _I),
    "br_ring_send": ([_P, _P, _L], _L),
    "br_ring_receive": ([_P, _P, _L], _L),
    "br_read_bandwidth": ([_P, _L], c.c_double),
    "br_peak": ([_I, _I, c.c_double], c.c_double),
    "br_clock": ([_I, c.c_double], c.c_double),
    "br_describe": ([], c.c_char_p),
    "br_path": ([], c.c_char_p),
    "br_bf16_name": ([], c.c_char_p),
    "br_bf16_of": ([c.c_char_p], c.c_char_p),
}


@functools.cache
def find_kernels() -> Path | None:
    """The library that the package's build left beside this file, if there was a compiler. `BRIGADE_KERNELS` names another
    build of the same sources, such as one with sanitizers."""
    other = os.environ.get("BRIGADE_KERNELS")
    if other:
        if not Path(other).is_file():
            raise ConfigError(f"BRIGADE_KERNELS is {other!r}, which is no file; name a build of the kernels, or unset it")
        return Path(other).absolute()  # a bare name would be looked for in the system's folders alone
    return next(iter(sorted(HERE.glob("_kernels*.so"))), None)


@functools.cache
def kernels() -> c.CDLL:
    with _once:  # two threads at the first call would both choose the path, the second perhaps after a model has chosen its own
        return _load()


@functools.cache
def _load() -> c.CDLL:
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
    _take(library, default_path(library))
    return library


def bf16_names(library: c.CDLL | None = None) -> dict[str, str]:
    """The paths this processor can take, best first, and by which name each computes bfloat16 products."""
    library = kernels() if library is None else library
    found = {name: library.br_bf16_of(name.encode()) for name in PATHS}
    return {name: kind.decode() for name, kind in found.items() if kind is not None}


def available_paths() -> tuple[str, ...]:
    """The paths this processor can take, best first."""
    return tuple(bf16_names())


def default_path(library: c.CDLL | None = None) -> str:
    """The path of a process that asks for none: what `BRIGADE_PATH` names, else the best."""
    names, wanted = tuple(bf16_names(library)), os.environ.get("BRIGADE_PATH")
    if not wanted:
        return names[0]
    if wanted not in names:
        reason = "which this processor or this build lacks" if wanted in PATHS else "which is no path"
        raise ConfigError(f"BRIGADE_PATH is {wanted!r}, {reason}; there are {', '.join(names)}: name one, or unset it")
    return wanted


def choose_path(name: str) -> None:
    """Use one set of instructions from now on; the empty name is that of `default_path`. Models made before would change their
    bits, so this is for tests; a user says `BRIGADE_PATH`, or `numerics`."""
    _take(kernels(), name or default_path())


def _take(library: c.CDLL, name: str) -> None:
    if library.br_choose_path(name.encode()) != 0:
        raise ConfigError(f"this processor has no path {name!r}; choose one of {', '.join(bf16_names(library))}")
