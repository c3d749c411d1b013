"""Faults of one rank: a module that every rank imports, and that does harm in the rank that the environment names.

`BRIGADE_TEST_FAULT` is the name of a function below and the rank, such as `last_bit@1`. The leader, rank 0, is the test's own
process and is left alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from brigade.assembly import line
from brigade.backends.cpu import native_exchange
from brigade.backends.reference import backend as reference
from brigade.parallel import links, messages, stage


def in_model(change: Callable[[Any], None]) -> None:
    real = line.fill

    def faulty(*given: Any) -> Any:
        model = real(*given)
        change(model)
        return model

    line.fill = faulty


def first(model: Any) -> Any:
    return model.own_layers[0]


def last_bit() -> None:
    """Of a bfloat16 number, which the reference backend holds as the float32 of the same value."""

    def change(model: Any) -> None:
        first(model).mlp.down.weight.data.view(torch.int32)[3, 5] ^= 1 << 16

    in_model(change)


def other_eps() -> None:
    def change(model: Any) -> None:
        first(model).mlp_norm.eps *= 1.01

    in_model(change)


def other_angle() -> None:
    def change(model: Any) -> None:
        for table in model.rope_tables().values():
            table.cos[3, 1] -= 1e-3

    in_model(change)


def own_bias() -> None:
    """Added by a rank to its part, and then once more to the whole sum."""
    real = reference.ReferenceBackend._branch

    def faulty(self: Any, *given: Any) -> Any:
        return real(self, *given) + 0.125

    reference.ReferenceBackend._branch = faulty


def other_order() -> None:
    """Of the blocks that this rank adds: (a + c) + (b + d)."""
    real = reference.pair_tree
    reference.pair_tree = lambda parts: real([parts[0], parts[2], parts[1], *parts[3:]] if len(parts) > 3 else parts)


def lost_update() -> None:
    """One step's keys are not written into the first of its blocks on this rank, which keeps what an earlier owner left."""
    real, steps = reference.store, []

    def faulty(cache: Any, layer: int, plan: Any, k_TGD: Any, v_TGD: Any) -> None:
        keys, _ = cache.of(layer)
        block = plan.write_blocks_T[-1]
        before = keys[block].clone()
        real(cache, layer, plan, k_TGD, v_TGD)
        steps.append(layer)
        if len(steps) == 3:
            keys[block] = before

    in_model(lambda model: setattr(reference, "store", faulty))  # the probe of the backend stores too, and comes before


def own_maximum() -> None:
    """The scale of a row comes from what this rank has of it."""
    real = native_exchange.NativeExchange.__init__

    class Deaf:
        """Takes part in every exchange, and keeps its own maximum."""

        native = None

        def __init__(self, exchange: Any) -> None:
            self._exchange, self.rank, self.size = exchange, exchange.rank, exchange.size
            self.tree, self.lost = exchange.tree, exchange.lost

        def maximum(self, most_T: torch.Tensor) -> torch.Tensor:
            own_T = most_T.clone()
            self._exchange.maximum(most_T)
            return own_T

    def faulty(self: Any, exchange: Any) -> None:
        real(self, Deaf(exchange))

    native_exchange.NativeExchange.__init__ = faulty


def rows_of_before() -> None:
    """The next stage is handed the first row of the step before."""
    real, kept = links.Links.send_rows, []

    def faulty(self: Any, x_TH: torch.Tensor) -> None:
        kept.append(x_TH[:1].clone())
        if len(kept) == 3:
            x_TH = torch.cat([kept[-2], x_TH[1:]])
        real(self, x_TH)

    links.Links.send_rows = faulty


def other_block() -> None:
    """Two blocks of a request are taken one for the other."""
    real = messages.Step.batch

    def faulty(self: Any) -> Any:
        spans = [(ids, start, [*blocks[:-2], *blocks[-2:][::-1]], wanted) for ids, start, blocks, wanted in self.spans]
        return real(messages.Step(self.cache, spans))

    messages.Step.batch = faulty


def neighbours_words() -> None:
    """The rank looks up the id beside the one that was asked for, among its own."""
    real = stage.GPTModel.through

    def faulty(self: Any, x_TH: torch.Tensor, *given: Any) -> torch.Tensor:
        return real(self, x_TH.roll(1, 0) if x_TH.shape[0] > 1 else x_TH, *given)

    stage.GPTModel.through = faulty


def other_logits() -> None:
    """A rank of the last stage sends one logit of its share a last bit too large."""
    real = stage.GPTModel.logits

    def faulty(self: Any, x_TH: torch.Tensor, step: Any) -> torch.Tensor:
        logits_RV = real(self, x_TH, step).clone()
        logits_RV.view(torch.int32)[-1, -1] += 1
        return logits_RV

    stage.GPTModel.logits = faulty


def other_id() -> None:
    """Of each greedy row's pair the id is one too large."""
    real = stage.Stage._pairs

    def faulty(self: Any, logits_RV: torch.Tensor) -> torch.Tensor:
        pairs_R2 = real(self, logits_RV)
        pairs_R2[:, 0], pairs_R2[:, 1] = 1e9, pairs_R2[:, 1] - 1
        return pairs_R2

    stage.Stage._pairs = faulty


def dies() -> None:
    """At the third step."""
    real, steps = stage.Stage.run, []

    def faulty(self: Any, *given: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *given)

    stage.Stage.run = faulty


name, _, rank = os.environ.get("BRIGADE_TEST_FAULT", "").partition("@")
if name and rank == os.environ.get("RANK"):
    globals()[name]()
