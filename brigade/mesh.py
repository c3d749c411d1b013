"""How a model is cut over ranks, in numbers: the mesh of all ranks, and the part of the network that one of them holds.

Two axes. *Tensor parallel* (TP) cuts the matrices of a layer: attention heads, the inner width of an MLP, the vocabulary.
*Pipeline parallel* (PP) cuts the row of layers into stages. `Mesh` is the whole, `Part` what one rank has of it, and `Cut` what
that means for one parameter. `brigade/parallel/degrees.py` says which degrees a model can have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brigade.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

Run = tuple[int, int]  # first .. last - 1
PANEL = 32  # outputs that the kernels keep together: a border of the vocabulary lies on a multiple of it where that is possible


@dataclass(frozen=True)
class Cut:
    """The runs of one axis (-2 rows, -1 columns) of a whole parameter that a rank holds, one after the other."""

    axis: int
    runs: tuple[Run, ...]

    @property
    def size(self) -> int:
        return sum(last - first for first, last in self.runs)

    def of(self, whole: Tensor) -> Tensor:
        """A bias has no rows but its own: it is cut along its only axis."""
        import torch  # here, so that a mesh costs no time to start

        axis = -1 if whole.dim() == 1 else self.axis
        parts = [whole.narrow(axis, first, last - first) for first, last in self.runs]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)).contiguous()


@dataclass(frozen=True)
class Part:
    """What one rank holds of a network: its share of every matrix of the layers `first_layer .. last_layer - 1`. The first stage
    has the word table too, the last one the final norm and the head."""

    first_layer: int
    last_layer: int
    num_layers: int
    tp: int = 1
    tp_rank: int = 0

    @classmethod
    def whole(cls, config: ModelConfig) -> Part:
        return cls(0, config.num_layers, config.num_layers)

    @property
    def layers(self) -> range:
        return range(self.first_layer, self.last_layer)

    @property
    def is_first(self) -> bool:
        return self.first_layer == 0

    @property
    def is_last(self) -> bool:
        return self.last_layer == self.num_layers

    def has(self, name: str) -> bool:
        """Whether a matrix of this name is here, or none of this name is anywhere."""
        kind, number = (*name.split("."), "")[:2]
        if kind == "layers" and number.isdecimal():
            return int(number) in self.layers or int(number) >= self.num_layers
        return {"embedding": self.is_first, "head": self.is_last, "project_out": self.is_last}.get(kind, True)

    def share(self, size: int) -> Run:
        """An equal share of an axis that the degree divides."""
        assert size % self.tp == 0, f"{size} over {self.tp} ranks"
        each = size // self.tp
        return self.tp_rank * each, (self.tp_rank + 1) * each

    def inner_cuts(self, width: int, gated: bool) -> tuple[Cut | None, Cut | None]:
        """Of an MLP's inner width, the rows of `up` and the columns of `down` that are here: a share of the gate, then of up."""
        if self.tp == 1:
            return None, None
        first, last = self.share(width)
        rows = ((first, last), (width + first, width + last)) if gated else ((first, last),)
        return Cut(-2, rows), Cut(-1, ((first, last),))

    def kv_heads(self, config: ModelConfig) -> Run:
        """The key-value heads that this rank's query heads read: a share of them, or one that several ranks hold alike."""
        if config.num_kv_heads >= self.tp:
            return self.share(config.num_kv_heads)
        own = self.tp_rank * config.num_kv_heads // self.tp
        return own, own + 1

    def vocabulary(self, size: int) -> Run:
        borders = vocabulary_borders(size, self.tp)
        return borders[self.tp_rank], borders[self.tp_rank + 1]

    def config(self, whole: ModelConfig) -> ModelConfig:
        """A network with this rank's heads and inner widths; the vocabulary and the number of layers stay."""
        if self.tp == 1:
            return whole
        first, last = self.kv_heads(whole)
        moe = whole.moe
        if moe is not None:
            moe = replace(
                moe, expert_ffn_size=moe.expert_ffn_size // self.tp, shared_ffn_size=moe.shared_ffn_size // self.tp
            )  # fmt: skip
        return replace(
            whole, num_heads=whole.num_heads // self.tp, num_kv_heads=last - first, ffn_size=whole.ffn_size // self.tp, moe=moe
        )


def vocabulary_borders(size: int, tp: int) -> list[int]:
    """Where the rows of each rank begin, and the end: on whole panels between ranks, unless the vocabulary is too small."""
    even = [size * rank // tp for rank in range(tp + 1)]
    if size < 2 * PANEL * tp:
        return even
    return [0, *(round(border / PANEL) * PANEL for border in even[1:-1]), size]


@dataclass(frozen=True)
class Mesh:
    """`tp` x `pp` ranks. `stages[s]` are the layers of stage s. Rank 0 is the leader, the first rank of the *last* stage, since
    only that stage has logits: so ranks count stages from the end."""

    tp: int = 1
    pp: int = 1
    stages: tuple[Run, ...] = ()

    @property
    def world(self) -> int:
        return self.tp * self.pp

    def stage(self, rank: int) -> int:
        return self.pp - 1 - rank // self.tp

    def tp_rank(self, rank: int) -> int:
        return rank % self.tp

    def rank(self, stage: int, tp_rank: int) -> int:
        return (self.pp - 1 - stage) * self.tp + tp_rank

    def group(self, rank: int) -> Sequence[int]:
        """The ranks that hold the same layers, in the order of their shares."""
        first = rank - self.tp_rank(rank)
        return range(first, first + self.tp)

    def part(self, rank: int, num_layers: int) -> Part:
        first, last = self.stages[self.stage(rank)] if self.stages else (0, num_layers)
        return Part(first, last, num_layers, self.tp, self.tp_rank(rank))

    def name(self, rank: int) -> str:
        return f"rank {rank} (stage {self.stage(rank)}, tensor rank {self.tp_rank(rank)})"
