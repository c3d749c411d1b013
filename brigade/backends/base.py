"""The backend contract: how one operation is computed.

The model says what is computed and in which order; a backend says how. Every operation works on packed rows, one row a
token (`x_TH`: T tokens, H channels), and must keep the row rule of the exactness contract:

    row t of a result depends on row t of the arguments (for attention: on the cache rows at positions <= t of the
    same sequence) and on nothing else, to the last bit; not on T, on the other rows, or on the number of threads.

A backend may also exchange whole modules for faster ones of its own: see `adapt_layer`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from brigade.backends.weights import Weights, place_all

if TYPE_CHECKING:
    import torch

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
class AttentionParams:
    """What one layer's attention is, apart from its tensors."""

    layer: int
    scale: float
    window: int | None = None
    softcap: float | None = None


class Backend(ABC):
    """One way to compute. Stateless but for what it learned about the machine."""

    name: str
    device: torch.device
    exact: bool  # keeps the row rule

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
    def tree_linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        """Row-parallel: G partial sums over K, added as a fixed binary tree, the bias once after it."""

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

    def cache_dim(self, head_dim: int) -> int:
        """Channels of a head in the cache, where this backend keeps more than there are."""
        return head_dim

    def probe(self, config: ModelConfig) -> None:
        """Called before a model's weights are read: prove that the row rule holds at its shapes, where that depends on the machine.
        What does not hold, and cannot be had another way, is a `ConfigError`."""

    def prepare(self, model: Any, weights: Weights | None = None) -> None:
        """Called once: give the model its weights, each read, packed or converted, and dropped before the next is read. None: they
        are in place already. The default holds every parameter as it is read."""
        if weights is not None:
            place_all(model, weights)

    def adapt_layer(self, spec: Any, layer: int) -> Any:
        """Exchange a layer's spec for this backend's own; the default keeps it."""
        return spec
