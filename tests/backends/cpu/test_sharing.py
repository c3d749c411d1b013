"""One model, several drivers: each has its cache, and a call changes nothing in the model."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch

from brigade.backends.cpu.library import find_kernels, kernels
from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch, Span
from tests.engine.fakes import FORMATS, Setup, tiny_model

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

LENGTH = 40


def cache_of(setup: Setup) -> KVCache:
    c, width = setup.config, tiny_model(setup).backend.cache_dim(setup.config.head_dim)
    return KVCache.allocate(c.num_layers, 4, c.num_kv_heads, 32, width, getattr(torch, setup.dtype))


def drive(setup: Setup, cache: KVCache, first: int) -> torch.Tensor:
    """A prompt, then token by token: the logits of every step."""
    model, ids = tiny_model(setup), [(11 * i + first) % setup.config.vocab_size for i in range(LENGTH)]
    out = [model(Batch((Span(ids[:20], 0, [2, 0]),)), cache)]
    out += [model(Batch((Span(ids[at : at + 1], at, [2, 0]),)), cache) for at in range(20, LENGTH)]
    return torch.cat(out)


@pytest.mark.parametrize("kind", FORMATS, ids="-".join)
def test_a_step_leaves_the_model_as_it_was(kind: tuple[str, str]) -> None:
    setup = Setup("cpu", *kind)
    layers = tiny_model(setup).layers
    before = [ctypes.string_at(ctypes.addressof(layer.native), ctypes.sizeof(layer.native)) for layer in layers]
    drive(setup, cache_of(setup), 0)
    after = [ctypes.string_at(ctypes.addressof(layer.native), ctypes.sizeof(layer.native)) for layer in layers]
    assert before == after


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("kind", [("cpu", *kind) for kind in FORMATS] + [("reference", "float32", "none")], ids="-".join)
def test_threads_with_a_cache_each_get_what_they_get_alone(kind: tuple[str, str, str], pool: int) -> None:
    setup = Setup(*kind)
    kernels().br_threads(pool, -1)
    firsts = range(4)
    expected = [drive(setup, cache_of(setup), first) for first in firsts]
    found: dict[int, list[torch.Tensor]] = {first: [] for first in firsts}
    begin = threading.Barrier(len(firsts))

    def work(first: int) -> None:
        begin.wait()
        for _ in range(2):
            found[first].append(drive(setup, cache_of(setup), first))

    threads = [threading.Thread(target=work, args=(first,)) for first in firsts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first in firsts:
        assert len(found[first]) == 2
        assert all(torch.equal(logits, expected[first]) for logits in found[first])
