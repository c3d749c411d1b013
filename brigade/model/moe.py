"""Mixture of experts, cut into four callables so that later a layout can put communication between them.

route (which experts, which weights) -> dispatch (rows to their experts) -> compute -> combine (back to the tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend
from brigade.config import Activation, MoEConfig


@dataclass(frozen=True, slots=True)
class Routing:
    """For every token its k experts in slot order and their weights."""

    experts_TK: Tensor
    weights_TK: Tensor


class ExpertWeights(nn.Module):
    """All experts' matrices side by side: `up` [E, F or 2F, H] as [gate; up], `down` [E, H, F]."""

    def __init__(self, moe: MoEConfig, hidden_size: int, gated: bool, backend: Backend, share: int = 1) -> None:
        super().__init__()
        self.share = share  # of each expert's inner width, `expert_ffn_size` is one of so many equal parts
        width = moe.expert_ffn_size
        self.up = nn.Parameter(torch.empty(moe.num_experts, width * (2 if gated else 1), hidden_size))
        self.down = nn.Parameter(torch.empty(moe.num_experts, hidden_size, width))


class MoE(nn.Module):
    def __init__(
        self,
        moe: MoEConfig,
        activation: Activation,
        gated: bool,
        router: nn.Module,
        experts: nn.Module,
        backend: Backend,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared
        self.moe, self.activation, self.gated, self.backend = moe, activation, gated, backend

    def forward(self, x_TH: Tensor) -> Tensor:
        routing = self.route(x_TH)
        rows_by_expert = self.dispatch(routing)
        outputs_TKH = self.compute(x_TH, routing, rows_by_expert)
        mixed_TH = self.combine(outputs_TKH, routing)
        return mixed_TH if self.shared is None else mixed_TH + self.shared(x_TH)

    def route(self, x_TH: Tensor) -> Routing:
        probabilities_TE = self.backend.softmax(self.router(x_TH))
        # A stable sort, so that equal probabilities choose the lower expert on every layout.
        ordered, experts = torch.sort(probabilities_TE, dim=-1, descending=True, stable=True)
        weights_TK, experts_TK = ordered[:, : self.moe.top_k], experts[:, : self.moe.top_k]
        if self.moe.renormalise:
            # Added slot by slot: a library sum may change its order with the number of rows.
            total = weights_TK[:, :1]
            for slot in range(1, self.moe.top_k):
                total = total + weights_TK[:, slot : slot + 1]
            weights_TK = weights_TK / total
        return Routing(experts_TK, weights_TK)

    def dispatch(self, routing: Routing) -> list[tuple[int, Tensor, Tensor]]:
        """For each expert with work: its number, and the tokens and slots it serves."""
        plan = []
        for expert in torch.unique(routing.experts_TK).tolist():
            tokens, slots = torch.nonzero(routing.experts_TK == expert, as_tuple=True)
            plan.append((expert, tokens, slots))
        return plan

    def compute(self, x_TH: Tensor, routing: Routing, plan: list[tuple[int, Tensor, Tensor]]) -> Tensor:
        """All experts' inner rows first, so that ranks who share the experts exchange once for all of them."""
        outputs_TKH = x_TH.new_zeros(*routing.experts_TK.shape, x_TH.shape[-1])
        pairs = [(self._inner(x_TH[tokens], expert), self.experts.down[expert]) for expert, tokens, _ in plan]
        products = self.backend.tree_linears(pairs, self.experts.share)
        for (_, tokens, slots), y in zip(plan, products, strict=True):
            outputs_TKH[tokens, slots] = y
        return outputs_TKH

    def _inner(self, x_TH: Tensor, expert: int) -> Tensor:
        h = self.backend.linear(x_TH, self.experts.up[expert], None)
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            return self.backend.activate(self.activation, gate) * up
        return self.backend.activate(self.activation, h)

    def combine(self, outputs_TKH: Tensor, routing: Routing) -> Tensor:
        """Sum in slot order, whatever the order of arrival was."""
        weights_TK1 = routing.weights_TK.unsqueeze(-1).to(outputs_TKH.dtype)
        mixed_TH = outputs_TKH[:, 0] * weights_TK1[:, 0]
        for slot in range(1, self.moe.top_k):
            mixed_TH = mixed_TH + outputs_TKH[:, slot] * weights_TK1[:, slot]
        return mixed_TH
