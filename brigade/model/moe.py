"""Mixture of experts, cut into four callables so that later a layout can put communication between them.

route (which experts, which weights) -> dispatch (rows to their experts) -> compute -> combine (back to the tokens).
Under tensor parallelism each expert is cut like an MLP, and what all slots of a layer lack is exchanged once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend
from brigade.config import Activation, MoEConfig
from brigade.mesh import Part
from brigade.model.cut_module import CutModule


@dataclass(frozen=True, slots=True)
class Routing:
    """For every token its k experts in slot order and their weights."""

    experts_TK: Tensor
    weights_TK: Tensor


class ExpertWeights(CutModule):
    """All experts' matrices side by side: `up` [E, F or 2F, H] as [gate; up], `down` [E, H, F], of this rank's share of F."""

    def __init__(self, moe: MoEConfig, hidden_size: int, gated: bool, backend: Backend, part: Part | None = None) -> None:
        super().__init__()
        self.share = 1 if part is None else part.tp
        width = moe.expert_ffn_size // self.share
        if part is not None and part.tp > 1:
            rows, columns = part.inner_cuts(moe.expert_ffn_size, gated)
            assert rows is not None and columns is not None
            self.cuts = {"up": rows, "down": columns}
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
        outputs_TKH = x_TH.new_zeros(*routing.experts_TK.shape, x_TH.shape[-1])
        inner = [(self._inner(x_TH[tokens], expert), self.experts.down[expert]) for expert, tokens, _ in plan]
        products = self.backend.tree_linears(inner, self.experts.share)
        for (_, tokens, slots), product_SH in zip(plan, products, strict=True):
            outputs_TKH[tokens, slots] = product_SH
        return outputs_TKH

    def _inner(self, x_SH: Tensor, expert: int) -> Tensor:
        h = self.backend.linear(x_SH, self.experts.up[expert], None)
        if not self.gated:
            return self.backend.activate(self.activation, h)
        gate, up = h.chunk(2, dim=-1)
        return self.backend.activate(self.activation, gate) * up

    def combine(self, outputs_TKH: Tensor, routing: Routing) -> Tensor:
        """Sum in slot order, whatever the order of arrival was."""
        weights_TK1 = routing.weights_TK.unsqueeze(-1).to(outputs_TKH.dtype)
        mixed_TH = outputs_TKH[:, 0] * weights_TK1[:, 0]
        for slot in range(1, self.moe.top_k):
            mixed_TH = mixed_TH + outputs_TKH[:, slot] * weights_TK1[:, slot]
        return mixed_TH
