"""Capacity on paper: what every rank of a layout would hold and exchange, whether that fits, and the smallest layout that would.

All of it is counted on blueprints, by which ranks plan their memory when they run; nothing is allocated. Ranks that are alike are
counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from brigade.assembly.line import Blueprint
from brigade.engine.memory_plan import Needs, wanted_blocks
from brigade.errors import ConfigError
from brigade.mesh import Mesh, vocabulary_borders
from brigade.model.gpt_model import empty_model
from brigade.parallel.degrees import make_mesh, tp_degrees


@dataclass(frozen=True)
class TokenBytes:
    """What a rank gives to others for one token. `words`: rows of the word table; `layers`: what goes to those that hold the same
    layers; `rows`: to the next stage; `logits`: its share of a row, to the leader, or of a greedy request `GREEDY` bytes."""

    words: int
    layers: int
    rows: int
    logits: int

    GREEDY = 8


@dataclass(frozen=True)
class RankOnPaper:
    rank: int
    stage: int
    tensor_rank: int
    layers: tuple[int, int]  # the first and the last
    heads: int
    kv_heads: int
    vocabulary: tuple[int, int] | None  # the ids whose logits it makes: the first, and the one behind the last
    needs: Needs
    cache: int  # bytes
    token: TokenBytes
    repacked: tuple[str, ...]  # an artifact's matrices that are cut inside of a panel of 32 outputs, and so copied at loading

    @property
    def whole(self) -> int:
        return self.needs.beside_cache + self.cache

    def as_dict(self, memory: int) -> dict[str, Any]:
        return {
            "rank": self.rank, "stage": self.stage, "tensor_rank": self.tensor_rank, "layers": list(self.layers),
            "heads": self.heads, "kv_heads": self.kv_heads,
            "vocabulary": None if self.vocabulary is None else list(self.vocabulary),
            "weights_bytes": self.needs.weights, "tables_bytes": self.needs.tables, "activations_bytes": self.needs.activations,
            "shared_bytes": self.needs.shared, "position_bytes": self.needs.position_bytes, "cache_bytes": self.cache,
            "whole_bytes": self.whole, "fits": self.whole <= memory,
            "token_bytes": {
                "word_table": self.token.words, "layers": self.token.layers, "next_stage": self.token.rows,
                "logits": self.token.logits, "greedy": TokenBytes.GREEDY if self.token.logits else 0,
            },
            "repacked": list(self.repacked),
        }  # fmt: skip


@dataclass(frozen=True)
class Paper:
    """A layout with a cache of `num_blocks` blocks of `block_size` positions. `memory`: what each rank may take."""

    mesh: Mesh
    ranks: Sequence[RankOnPaper]
    num_blocks: int
    block_size: int
    memory: int

    @property
    def fits(self) -> bool:
        return all(one.whole <= self.memory for one in self.ranks)

    @property
    def fullest(self) -> RankOnPaper:
        return max(self.ranks, key=lambda one: one.whole)

    @property
    def positions_that_fit(self) -> int:
        """In the cache of every rank, beside all else; in whole blocks. Below 0 is 0: then there is no room for any."""
        blocks = [(self.memory - one.needs.beside_cache) // (one.needs.position_bytes * self.block_size) for one in self.ranks]
        return max(min(blocks), 0) * self.block_size


def on_paper(blueprint: Blueprint, memory: int) -> Paper:
    """Of all ranks of a blueprint's layout."""
    mesh, config = blueprint.mesh, blueprint.source.config
    own = [blueprint if rank == blueprint.rank else replace(blueprint, rank=rank) for rank in range(mesh.world)]
    counted: dict[Any, tuple[Needs, TokenBytes]] = {}
    for drawn in own:
        if _kind(drawn) not in counted:
            counted[_kind(drawn)] = drawn.needs(), token_bytes(drawn)
    block_size = blueprint.engine_config.block_size
    widest = max(needs.position_bytes for needs, _ in counted.values())
    blocks = wanted_blocks(config, blueprint.engine_config, widest * block_size)
    ranks = []
    for drawn in own:
        needs, token = counted[_kind(drawn)]
        held, local = drawn.held, drawn.local
        needs = replace(needs, shared=drawn.shared_bytes)
        one = RankOnPaper(
            drawn.rank, mesh.stage(drawn.rank), mesh.tp_rank(drawn.rank), (held.first_layer, held.last_layer - 1),
            local.num_heads, local.num_kv_heads, held.vocabulary(config.vocab_size) if held.is_last else None, needs,
            blocks * block_size * needs.position_bytes, token,
            () if drawn.source.artifact is None else _repacked(drawn),
        )  # fmt: skip
        ranks.append(one)
    return Paper(mesh, ranks, blocks, block_size, memory)


def token_bytes(blueprint: Blueprint) -> TokenBytes:
    held, config = blueprint.held, blueprint.source.config
    borders = vocabulary_borders(config.vocab_size, held.tp)
    return TokenBytes(
        words=4 * (config.embedding_size or config.hidden_size) if held.is_first and held.tp > 1 else 0,
        layers=blueprint.backend.exchanged_bytes(blueprint.empty_network, blueprint.dtype),
        rows=0 if held.is_last else 4 * config.hidden_size,
        logits=4 * max(last - first for first, last in pairwise(borders)) if held.is_last and held.tp > 1 else 0,
    )


def smallest_layout(blueprint: Blueprint, memory: int) -> Paper | None:
    """The layout of the fewest ranks in which each fits into so much memory; of equally many the one with most tensor ranks, whose
    steps are the shortest. None where even the most ranks that the model can have are too few."""
    for mesh in _meshes(blueprint, memory):
        with suppress(ConfigError):  # of fewer ranks a block may be larger than the memory that was given for blocks
            leader = replace(blueprint, mesh=mesh, rank=0)
            if leader.shared_bytes > memory:
                return None  # what it says to the others takes more the more there are
            if leader.needs().beside_cache > memory:
                continue
            paper = on_paper(leader, memory)
            if paper.fits:
                return paper
    return None


def _kind(drawn: Blueprint) -> Any:
    """Equal for ranks that hold and exchange as many bytes. The leader gathers logits."""
    held = drawn.held
    first, last = held.vocabulary(drawn.source.config.vocab_size)
    return held.first_layer, last - first if held.is_first or held.is_last else None, drawn.rank == 0


def _repacked(drawn: Blueprint) -> tuple[str, ...]:
    """By one layer of each kind, since those of a kind are cut alike; and by the last one, which has the head beside it."""
    held, config = drawn.held, drawn.source.config
    kinds = {config.is_moe(i): i for i in reversed(held.layers)}
    found: dict[str, None] = {}
    for i in sorted({*kinds.values(), held.layers[-1]}):
        network = empty_model(config, drawn.backend, drawn.limit, replace(held, first_layer=i, last_layer=i + 1))
        found |= dict.fromkeys(drawn.backend.cut_inside_panels(network))
    return tuple(found)


def _meshes(blueprint: Blueprint, memory: int) -> Iterator[Mesh]:
    """From few ranks to many. Counting a layout takes some time, so those are left out that are plainly too small: where a rank
    would need more than `memory` if all were shared out evenly, or only for the smallest layers that its stage could have."""
    config, engine = blueprint.source.config, blueprint.engine_config
    alone = replace(blueprint, mesh=make_mesh(config), rank=0)
    sizes = blueprint.backend.packed_sizes(blueprint.whole_network, blueprint.dtype)
    cache = 0
    if engine.kv_memory is None:
        blocks = wanted_blocks(config, engine, alone.position_bytes * engine.block_size)
        cache = blocks * engine.block_size * alone.position_bytes // config.num_layers
    layers = dict.fromkeys((f"layers.{i}" for i in range(config.num_layers)), cache)
    for name, size in sizes.items():
        layer = ".".join(name.split(".")[:2])
        if layer in layers:
            layers[layer] += size
    least = list(accumulate(sorted(layers.values()), initial=0))
    whole = sum(sizes.values()) + cache * config.num_layers
    degrees = tp_degrees(config)[::-1]
    for ranks in range(1, degrees[0] * config.num_layers + 1):
        for tp in degrees:
            pp = ranks // tp
            if ranks % tp or pp > config.num_layers or memory * ranks < whole:
                continue
            if memory * tp >= least[-(-config.num_layers // pp)]:
                yield make_mesh(config, tp, pp)
