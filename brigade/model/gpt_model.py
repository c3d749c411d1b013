"""The whole network: ids and positions in, logits of the wanted rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend, Step
from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch
from brigade.config import ModelConfig, RopeConfig
from brigade.mesh import Cut, Part
from brigade.model.cut_module import CutModule
from brigade.model.layer_specs import gpt_spec
from brigade.model.rope import RopeTable
from brigade.model.spec import ModuleSpec, build_module


class Elsewhere(nn.Module):
    """In the place of a layer that another stage holds, so that layers keep their numbers."""


@dataclass(slots=True)
class Finished:
    """What was computed layer by layer since the model was made."""

    layers: int = 0


class AtOnce(Protocol):
    """All that follows the embedding in one call: a backend's own way for steps that are short. The same bits as layer by layer."""

    finished: int  # layers, as in `Finished`

    def __call__(self, x_TH: Tensor, step: Step) -> Tensor | None:
        """Logits of the wanted rows before a softcap; None where the layers have to go one by one. `x_TH` may be written over."""


class GPTModel(nn.Module):
    """Built from a spec for each part; it never sees a request and keeps no state between steps.

    Made on the meta device, it costs nothing until its backend's `prepare` or `adopt` gives it weights. With a `part` it is what
    one rank holds: `enter` where that is the first stage, `through` its own layers, `logits` of its share of the vocabulary on
    the last.
    """

    def __init__(
        self,
        config: ModelConfig,
        backend: Backend,
        max_length: int | None = None,
        spec: Mapping[str, ModuleSpec] | None = None,
        held: Part | None = None,
    ) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.held = Part.whole(config) if held is None else held
        self.max_length = max_length or config.max_positions
        spec = gpt_spec(config, backend, self.held) if spec is None else spec

        def part(name: str) -> nn.Module | None:
            return build_module(spec[name], backend=backend) if name in spec else None

        self.embedding = part("embedding")
        names = [f"layers.{i}" for i in range(config.num_layers)]
        self.layers = nn.ModuleList(
            build_module(spec[name], layer=i, backend=backend) if name in spec else Elsewhere() for i, name in enumerate(names)
        )
        self.final_norm, self.project_out, self.head = part("final_norm"), part("project_out"), part("head")
        self.windows = frozenset(config.window(i) for i in self.held.layers)
        self.cuts: dict[str, Cut] = {  # by the name of a parameter that is a share of a whole one
            f"{name}.{key}": cut
            for name, module in self.named_modules()
            if isinstance(module, CutModule)
            for key, cut in module.cuts.items()
        }
        self.finished = Finished()
        self.at_once: AtOnce | None = None  # set by a backend that prepares the model
        self._rope_tables: dict | None = None

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Float32 logits [wanted rows, vocabulary] in the order of the batch's spans."""
        step = self.backend.begin_step(batch, cache, self.windows)
        x_TH = self.embedding(step)
        logits = None if self.at_once is None else self.at_once(x_TH, step)
        return self.logits(self.through(x_TH, step), step) if logits is None else self._capped(logits)

    def hidden(self, step: Step) -> Tensor:
        return self.through(self.embedding(step), step)

    def through(self, x_TH: Tensor, step: Step, tick: Callable[[], None] | None = None) -> Tensor:
        """The layers that are here; `tick` is called after each."""
        layers = self.own_layers
        rotary = self._rotary(step) if any(layer.reads_rotary for layer in layers) else {}
        for layer in layers:
            x_TH = layer(x_TH, step, rotary)
            self.finished.layers += 1
            if tick is not None:
                tick()
        return x_TH

    @property
    def own_layers(self) -> list[nn.Module]:
        layers = list(self.layers)
        return [layers[i] for i in self.held.layers]

    def logits(self, x_TH: Tensor, step: Step) -> Tensor:
        if step.logit_rows is not None and x_TH.shape[0] == step.token_ids_T.shape[0]:  # else the last layer chose them already
            x_TH = x_TH[step.logit_rows]
        if self.final_norm is not None:
            x_TH = self.final_norm(x_TH)
        if self.project_out is not None:
            x_TH = self.project_out(x_TH)
        logits = self.backend.linear(x_TH, self.embedding.word, None) if self.head is None else self.head(x_TH)
        return self._capped(logits.float())

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return logits if cap is None else self.backend.softcap(logits, cap)

    @property
    def layers_finished(self) -> int:
        """Since the model was made: it grows as long as a step does not hang."""
        return self.finished.layers + (0 if self.at_once is None else self.at_once.finished)

    def _rotary(self, step: Step) -> dict:
        """cos and sin of this step's positions, for each distinct rope of the model."""
        tables = self.rope_tables().items()
        return {rope: (table.cos[step.positions_T], table.sin[step.positions_T]) for rope, table in tables}

    def rope_tables(self) -> dict[RopeConfig, RopeTable]:
        """Made once, for each distinct rope of the model."""
        if self._rope_tables is None:
            self._rope_tables = {rope: RopeTable(rope, self.max_length, self.backend.device) for rope in self._ropes}
        return self._rope_tables

    @property
    def rope_bytes(self) -> int:
        """What these tables take, made or not."""
        return sum(RopeTable.bytes(rope, self.max_length) for rope in self._ropes)

    @property
    def _ropes(self) -> set[RopeConfig]:
        return {rope for rope in map(self.config.layer_rope, self.held.layers) if rope is not None}


def empty_model(
    config: ModelConfig, backend: Backend, max_length: int | None = None, held: Part | None = None
) -> GPTModel:  # fmt: skip
    """The network without storage: its parameter names, shapes and spec, for loading, counting and showing."""
    with torch.device("meta"):
        return GPTModel(config, backend, max_length, held=held)
