"""The backend contract: how one operation is computed.

The model says what is computed and in which order; a backend says how. Every operation works on packed rows, one row a
token (`x_TH`: T tokens, H channels), and must keep the row rule of the exactness contract:

    row t of a result depends on row t of the arguments (for attention: on the cache rows at positions <= t of the
    same sequence) and on nothing else, to the last bit; not on T, on the other rows, or on the number of threads.

A backend may also exchange whole modules for faster ones of its own: see `adapt_layer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from brigade.backends.exchange import Alone, Exchange
from brigade.backends.number_formats import NumberFormats
from brigade.backends.step_size import summed_products, torch_step_bytes
from brigade.backends.sums import TensorSum, plain_sums
from brigade.backends.weights import Weights, place_all
from brigade.errors import ConfigError

if TYPE_CHECKING:
    from brigade.backends.kv_cache import KVCache
    from brigade.batch import Batch
    from brigade.config import Activation, ModelConfig, NormKind

G = 8  # the reduction width: row-parallel sums are a binary tree over this many equal blocks of K


@dataclass(frozen=True, slots=True)
class Step:
    """A batch as the tensors of one forward pass, made once and read by every layer."""

    token_ids_T: Tensor
    positions_T: Tensor
    logit_rows: Tensor | None  # None: every row
    attention: Any  # the backend's own plan
    cache: KVCache | None


@dataclass(frozen=True, slots=True)
class LargestStep:
    """The most that one step of an engine computes."""

    tokens: int  # new ones
    requests: int  # each wants the logits of one row
    positions: int  # of the longest request


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """What one layer's attention is, apart from its tensors."""

    layer: int
    scale: float
    window: int | None = None
    softcap: float | None = None


class Backend(ABC):
    """One way to compute. Stateless but for what it learned about the machine.

    What a backend can do stands here, each with an answer for those that cannot; nobody asks a backend for what is not here.
    """

    name: str
    device: torch.device
    exact: bool  # keeps the row rule
    block_sizes: tuple[int, ...] | None = None  # positions of a cache block that it takes; None: any
    quantises = False  # whether `quantise` is understood
    arithmetic = "float32"  # what its matrix products compute in: a name of `bench`'s ceilings
    exchange: Exchange = Alone()  # with the ranks that hold the other shares of this model; set before a model is made

    @property
    @abstractmethod
    def numerics_id(self) -> str:
        """Names everything that decides the bits of a result besides checkpoint and ids."""

    @abstractmethod
    def begin_step(self, batch: Batch, cache: KVCache | None, windows: frozenset[int | None]) -> Step:
        """Turn a batch into tensors, with one attention plan for each distinct window."""

    @abstractmethod
    def embed(self, ids_T: Tensor, table_VH: Tensor, onto_TH: Tensor | None = None) -> Tensor:
        """Rows of a table; `onto_TH` and them, in whose place the sum may be written."""

    @abstractmethod
    def linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        """Column-parallel: whole sums over K, outputs split freely."""

    @abstractmethod
    def tree_linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, share: int = 1) -> Tensor:
        """Row-parallel: G partial sums over K, added as a fixed binary tree, the bias once after it. Where K is one of `share`
        equal parts of a whole, this rank adds its own blocks, which are one branch of the tree, and the exchange the rest of
        it."""

    def tree_linears(self, pairs: Sequence[tuple[Tensor, Any]], share: int = 1) -> list[Tensor]:
        """`tree_linear` of several (rows, weight), in one exchange if the backend can: of experts, whose rows are few."""
        return [self.tree_linear(x, weight, None, share) for x, weight in pairs]

    @abstractmethod
    def norm(
        self, kind: NormKind, x_TH: Tensor, weight_H: Tensor | None, bias_H: Tensor | None, eps: float, offset: float
    ) -> Tensor: ...

    @abstractmethod
    def rotate(self, x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        """Apply rotary positions to the first 2 R channels of every head."""

    @abstractmethod
    def activate(self, kind: Activation, x: Tensor) -> Tensor: ...

    @abstractmethod
    def attention(self, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, params: AttentionParams, step: Step) -> Tensor:
        """Store the new keys and values, attend causally, return [T, N, D]."""

    @abstractmethod
    def softcap(self, x: Tensor, cap: float) -> Tensor: ...

    @abstractmethod
    def softmax(self, x_TE: Tensor) -> Tensor:
        """Softmax of a short last axis (a router's experts), in fp32."""

    @property
    def threads(self) -> int:
        """How many threads compute."""
        return torch.get_num_threads()

    def use(self, threads: int | None, cpus: str | None) -> None:
        """Compute with so many threads, or with one on each of these processors; None leaves it as it is."""
        if cpus is not None:
            raise ConfigError(f"cpus is {cpus!r}, but the {self.name} backend pins no threads; use backend cpu, or give threads")
        if threads is not None:
            from brigade.backends.cpu.threads import check_threads

            check_threads(threads)
            torch.set_num_threads(threads)

    def quantise(self, scheme: str, skip_layers: Iterable[str] = (), num_layers: int = 0) -> None:
        """Hold matrices quantised from the next model on. Only asked of a backend that `quantises`."""
        raise NotImplementedError

    def held_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """How weights that were rounded to `dtype` lie in memory."""
        return dtype

    def hold_tensor(self, tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
        """A tensor of a file as this backend holds weights: rounded to `dtype`, contiguous, on its device; and whether all of its
        numbers are finite then."""
        held = tensor.to(dtype).to(self.held_dtype(dtype)).contiguous().to(self.device)
        return held, is_finite(held)

    def weight_bytes(self, model: Any) -> tuple[int, int]:
        """What a step reads of a prepared model: all layers, and the head. A tied head is the word table, read whole; a table that
        is no head is only looked up."""
        tables = {"embedding.word", "embedding.position"}
        sizes = {name: parameter.numel() * parameter.element_size() for name, parameter in model.named_parameters()}
        head = sum(size for name, size in sizes.items() if name.startswith("head."))
        if not head and model.held.is_last:
            head = sizes["embedding.word"]
        return sum(size for name, size in sizes.items() if name not in tables and not name.startswith("head.")), head

    def free_memory(self) -> int:
        """Bytes that its device has free."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        import psutil

        return psutil.virtual_memory().available

    def check_block_size(self, size: int) -> None:
        if self.block_sizes is not None and size not in self.block_sizes:
            known = ", ".join(map(str, self.block_sizes))
            raise ConfigError(f"block_size is {size}; the {self.name} backend takes {known}")

    def hold(self, dtype: torch.dtype) -> None:
        """Called once, before a model is made: the type of the cache, and of weights that nothing quantises. `numerics_id` may
        depend on it."""

    def cache_dim(self, head_dim: int) -> int:
        """Channels of a head in the cache, where this backend keeps more than there are."""
        return head_dim

    def packed_sizes(self, model: Any, dtype: torch.dtype) -> dict[str, int]:
        """What the weights of this empty model will take once they are prepared, by name, for the memory plan."""
        return {name: parameter.numel() * dtype.itemsize for name, parameter in model.named_parameters()}

    def step_bytes(self, model: Any, dtype: torch.dtype, step: LargestStep) -> int:
        """What a step of this empty model takes beside weights and cache, for the memory plan. The default is that of operations
        that torch computes in float32 one by one."""
        return torch_step_bytes(model, step, G)

    def exchanged_bytes(self, model: Any, dtype: torch.dtype) -> int:
        """What a rank with this part of a model gives for one token to those that hold the same layers: a float32 for each output
        of every product that they sum together."""
        return 4 * sum(rows * outputs for _, rows, outputs in summed_products(model))

    def cut_inside_panels(self, model: Any) -> list[str]:
        """Which kinds of matrices of a rank's part begin or end where a packed matrix cannot be cut without repacking it."""
        return []

    def number_formats(self, dtype: torch.dtype) -> NumberFormats:
        """What a table says of a model loaded with `dtype`."""
        name = str(dtype).removeprefix("torch.")
        return NumberFormats(name, f"that of the {self.name} backend", name)

    def probe(self, config: ModelConfig, tp: int = 1) -> None:
        """Called before a model's weights are read: prove that the row rule holds at its shapes, where that depends on the machine,
        and that outputs and heads cut over `tp` ranks are those of the whole. What does not hold, and cannot be had another way,
        is a `ConfigError`."""

    def prepare(self, model: Any, weights: Weights | None = None) -> None:
        """Called once: give the model its weights, each read, packed or converted, and dropped before the next is read. None: they
        are in place already. The default holds every parameter as it is read."""
        if weights is not None:
            place_all(model, weights, model.cuts)

    def adopt(self, model: Any, ready: Any) -> None:
        """The same from the packed weights of an artifact. Only asked of the backend that artifacts are exported for."""
        raise NotImplementedError

    def tensor_sums(self, model: Any, dtype: torch.dtype, weights: Weights | None = None) -> Iterator[TensorSum]:
        """What this rank counts of each tensor that the model computes with, for the model's fingerprint: of a prepared model whose
        weights were rounded to `dtype`. With `weights`: of a whole model that is still empty, tensor by tensor, none of which is
        kept."""
        return plain_sums(model, dtype, weights)

    def adapt_layer(self, spec: Any, layer: int) -> Any:
        """Exchange a layer's spec for this backend's own; the default keeps it."""
        return spec


def is_finite(tensor: Tensor) -> bool:
    """One pass and no copy: the smallest and the largest element are finite only if all are, since NaN is either."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))
