"""How a backend gets a model's weights: one tensor at a time, so that none is held twice for longer than its packing takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from brigade.mesh import Cut


class Weights(ABC):
    """A model's parameters by the names that the network gives them. Each is read when it is asked for, and only the one who
    asked keeps it: a backend packs it, and drops it before it asks for the next."""

    @abstractmethod
    def take(self, name: str, cut: Cut | None = None) -> Tensor:
        """A parameter, or what `cut` takes of it, in memory of its own: contiguous, in the type and on the device that the backend
        holds it in."""

    @abstractmethod
    def take_part(self, name: str, index: int, cut: Cut | None = None) -> Tensor:
        """`take(name)[index]`, read alone: one expert's matrix out of all experts', or what `cut` takes of it."""


def place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a parameter of a model that has no storage yet its values."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    assert tuple(getattr(module, key).shape) == tuple(tensor.shape), name
    setattr(module, key, nn.Parameter(tensor, requires_grad=False))


def place_all(model: nn.Module, weights: Weights, cuts: Mapping[str, Cut]) -> None:
    for name, parameter in list(model.named_parameters()):
        assert parameter.device == torch.device("meta"), name
        place(model, name, take_share(weights, name, cuts))


def take_share(weights: Weights, name: str, cuts: Mapping[str, Cut]) -> Tensor:
    """What a rank holds of a parameter: all of it, where `cuts` does not say less."""
    return weights.take(name, cuts.get(name))
