"""One training step: forward, cross-entropy, backward, clip, AdamW on a cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brigade.backends.training import TrainingBackend
from brigade.errors import ConfigError
from brigade.model.gpt_model import GPTModel


@dataclass(frozen=True)
class TrainingConfig:
    steps: int
    peak_rate: float = 3e-3
    final_rate: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.warmup < self.steps:
            raise ConfigError(f"warmup is {self.warmup} of {self.steps} steps; it must be above 0 and below the number of steps")

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to the final rate."""
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.final_rate + (self.peak_rate - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def initialise(model: GPTModel, seed: int) -> None:
    """Normal 0.02; the matrices that write to the residual stream are scaled down by the depth; norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
            scale = 0.02 / math.sqrt(2 * len(model.layers)) if writes else 0.02
            parameter.normal_(0.0, scale, generator=generator)


def make_optimizer(model: GPTModel, config: TrainingConfig) -> torch.optim.AdamW:
    """Matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.peak_rate, betas=config.betas, fused=True)


def loss_of(model: GPTModel, ids_BL: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of every id after the first."""
    assert isinstance(model.backend, TrainingBackend)
    step = model.backend.step_of(ids_BL[:, :-1])
    logits_TV = model.logits(model.hidden(step), step)
    return functional.cross_entropy(logits_TV, ids_BL[:, 1:].reshape(-1))


def train_step(model: GPTModel, optimizer: torch.optim.Optimizer, ids_BL: Tensor, step: int, config: TrainingConfig) -> float:
    for group in optimizer.param_groups:
        group["lr"] = config.rate(step)
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(model, ids_BL)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return loss.item()
