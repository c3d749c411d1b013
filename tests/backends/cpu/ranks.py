"""Ranks as threads of the test: they meet at a barrier, and each holds its part of one network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from brigade.backends.base import Backend
from brigade.backends.cpu.packer import PackedModel
from brigade.backends.exact_math import pair_tree
from brigade.backends.exchange import Exchange
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.backends.weights import Weights
from brigade.batch import Batch
from brigade.config import ModelConfig
from brigade.mesh import Cut, Part
from brigade.model.gpt_model import GPTModel, empty_model

Result = TypeVar("Result")
PATIENCE = 30  # seconds at a barrier: a rank that never comes fails the test


class Meeting:
    """What the ranks of one group share."""

    def __init__(self, size: int) -> None:
        self.barrier, self.slots = threading.Barrier(size), [torch.empty(0)] * size


class ThreadExchange(Exchange):
    """Every rank lays its numbers down, reads those of all, and goes on when all have read."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.slots), meeting
        self.calls: list[tuple[str, tuple[int, ...], torch.dtype]] = []

    def _all(self, name: str, x: Tensor) -> list[Tensor]:
        self.calls.append((name, tuple(x.shape), x.dtype))
        self.meeting.slots[self.rank] = x.clone()
        self.meeting.barrier.wait(PATIENCE)
        found = list(self.meeting.slots)
        self.meeting.barrier.wait(PATIENCE)
        return found

    def tree(self, part: Tensor) -> Tensor:
        return pair_tree(self._all("tree", part))

    def maximum(self, most_T: Tensor) -> Tensor:
        """By their bits: NaN is above all others, and stays the one that it is."""
        return (
            torch.stack([most.view(torch.int32) & 0x7FFFFFFF for most in self._all("maximum", most_T)]).amax(0).view(torch.float32)
        )

    def choose(self, x_TH: Tensor, owners_T: Tensor) -> Tensor:
        return torch.stack(self._all("choose", x_TH))[owners_T, torch.arange(x_TH.shape[0])]

    def gather(self, x_RW: Tensor, widths: Sequence[int]) -> Tensor | None:
        found = self._all("gather", x_RW)
        assert [x.shape[1] for x in found] == list(widths)
        return torch.cat(found, 1) if self.rank == 0 else None


def in_ranks(
    size: int, call: Callable[[Exchange], Result], kind: Callable[[int, Meeting], Exchange] = ThreadExchange
) -> list[Result]:
    """What every rank's call returned. The first error ends all, and is raised."""
    meeting, results, errors = Meeting(size), [None] * size, []

    def live(rank: int) -> None:
        try:
            with torch.inference_mode():
                results[rank] = call(kind(rank, meeting))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=live, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive()
    for error in errors:
        raise error
    return results


class Whole(Weights):
    """Every parameter, whole."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def take(self, name: str, cut: Cut | None = None) -> Tensor:
        return self.tensors[name] if cut is None else cut.of(self.tensors[name]).clone()

    def take_part(self, name: str, index: int, cut: Cut | None = None) -> Tensor:
        return self.tensors[name][index] if cut is None else cut.of(self.tensors[name][index]).clone()


def random_weights(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Whole:
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, parameter in empty_model(config, get_backend("cpu")).named_parameters():
        wide = parameter.ndim > 1
        spread = 1.5 / parameter.shape[-1] ** 0.5 if wide else 0.2
        tensors[name] = torch.empty(parameter.shape).normal_(0.0 if wide else 1.0, spread, generator=generator).to(dtype)
    return Whole(tensors)


def cuts_of(config: ModelConfig, part: Part) -> dict[str, Cut]:
    """What a rank holds of each matrix of the layers."""
    dim, cuts = config.head_dim, {}
    q_size, kv_size = config.num_heads * dim, config.num_kv_heads * dim
    first, last = part.share(config.num_heads)
    group = part.kv_heads(config)
    runs = [(first, last, 0), (*group, q_size), (*group, q_size + kv_size)]
    for layer in part.layers:
        at = f"layers.{layer}"
        cuts[f"{at}.attention.qkv.weight"] = Cut(-2, tuple((base + a * dim, base + b * dim) for a, b, base in runs))
        cuts[f"{at}.attention.out.weight"] = Cut(-1, ((first * dim, last * dim),))
        moe = config.moe if config.is_moe(layer) else None
        if moe is None:
            cuts |= _mlp(f"{at}.mlp", ".weight", config.ffn_size, config.gated, part)
            continue
        cuts |= _mlp(f"{at}.mlp.experts", "", moe.expert_ffn_size, config.gated, part)
        if moe.shared_ffn_size:
            cuts |= _mlp(f"{at}.mlp.shared", ".weight", moe.shared_ffn_size, config.gated, part)
    return cuts


def _mlp(at: str, end: str, width: int, gated: bool, part: Part) -> dict[str, Cut]:
    first, last = part.share(width)
    up = ((first, last), (width + first, width + last)) if gated else ((first, last),)
    return {f"{at}.up{end}": Cut(-2, up), f"{at}.down{end}": Cut(-1, ((first, last),))}


def make_model(
    config: ModelConfig, weights: Weights | PackedModel, scheme: str = "none", exchange: Exchange | None = None
) -> GPTModel:
    """The whole network, or with an exchange the part of its rank."""
    backend = get_backend("cpu")
    if scheme != "none":
        backend.quantise(scheme)
    if exchange is None:
        model = empty_model(config, backend)
    else:
        backend.exchange = exchange
        model = empty_part(config, backend, exchange)
    model.eval().requires_grad_(False)
    if isinstance(weights, PackedModel):
        model.load_state_dict(dict(weights.tensors), strict=False, assign=True)
        backend.adopt(model, weights)
    else:
        backend.prepare(model, weights)
    return model


def empty_part(config: ModelConfig, backend: Backend, exchange: Exchange) -> GPTModel:
    part = Part(0, config.num_layers, config.num_layers, exchange.size, exchange.rank)
    model = empty_model(part.config(config), backend)
    model.cuts = cuts_of(config, part)
    for module in model.modules():
        if type(module).__name__ in ("RowLinear", "ExpertWeights"):
            module.share = exchange.size
    return model


def run(model: GPTModel, batches: Sequence[Batch], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What the layers make of each step: after the last one, of the rows that are wanted."""
    config, backend = model.config, model.backend
    blocks = 1 + max(block for batch in batches for span in batch.spans for block in span.blocks)
    cache = KVCache.allocate(config.num_layers, blocks, config.num_kv_heads, 32, backend.cache_dim(config.head_dim), dtype)
    return [model.hidden(backend.begin_step(batch, cache, model.windows)) for batch in batches]
