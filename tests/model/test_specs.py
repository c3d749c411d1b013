"""A model is what its specs say, and a part can be exchanged before anything is built."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from brigade.backends.registry import get_backend
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.errors import ConfigError
from brigade.model.gpt_model import GPTModel, empty_model
from brigade.model.layer_specs import gpt_layer_spec, gpt_spec
from brigade.model.moe import MoE
from brigade.model.spec import ModuleSpec, build_module

BACKEND = get_backend("reference")
CONFIG = ModelConfig("x", 50, 2, 32, 4, 2, 8, 48, 64, rope=RopeConfig(rotary_dim=8))


def test_specs_choose_the_parts() -> None:
    dense = gpt_layer_spec(CONFIG, BACKEND, 0)
    assert list(dense.submodules) == ["attention_norm", "attention", "mlp_norm", "mlp"]
    sandwich = gpt_layer_spec(dataclasses.replace(CONFIG, sandwich_norm=True, qk_norm="head"), BACKEND, 0)
    assert {"attention_post_norm", "mlp_post_norm"} <= set(sandwich.submodules)
    assert {"q_norm", "k_norm"} <= set(sandwich.submodules["attention"].submodules)
    routed = dataclasses.replace(CONFIG, moe=MoEConfig(4, 2, 16, layers=(1,)))
    assert gpt_layer_spec(routed, BACKEND, 0).submodules["mlp"].module is not MoE
    assert gpt_layer_spec(routed, BACKEND, 1).submodules["mlp"].module is MoE


def test_a_part_is_exchanged_in_the_spec() -> None:
    class Silence(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    spec = gpt_spec(CONFIG, BACKEND)
    spec["layers.1"] = spec["layers.1"].with_submodule("mlp", ModuleSpec(Silence))
    model = GPTModel(CONFIG, BACKEND, spec=spec)
    assert isinstance(model.layers[1].mlp, Silence)
    assert not isinstance(model.layers[0].mlp, Silence)


def test_modules_get_the_context_they_ask_for() -> None:
    class Asks(nn.Module):
        def __init__(self, size: int, layer: int) -> None:
            super().__init__()
            self.facts = (size, layer)

    assert build_module(ModuleSpec(Asks, {"size": 3}), layer=7, backend=BACKEND).facts == (3, 7)


def test_an_empty_model_costs_nothing() -> None:
    model = empty_model(CONFIG, BACKEND)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_shared_experts_are_added() -> None:
    config = dataclasses.replace(CONFIG, moe=MoEConfig(4, 2, 16, shared_ffn_size=24))
    names = dict(empty_model(config, BACKEND).named_parameters())
    assert names["layers.0.mlp.shared.up.weight"].shape == (48, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_kv_heads": 3}, "cannot share"),
        ({"rope": None}, "missing"),
        ({"position": "learned"}, "given"),
        ({"rope": RopeConfig(rotary_dim=16)}, "exceeds"),
        ({"sliding_window": 0}, "sliding window is 0"),
        ({"sliding_window": 4, "windowed_layers": (5,)}, "layer 5"),
        ({"norm_after": True, "sandwich_norm": True}, "norm_after"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(("experts", "top_k"), [(4, 5), (4, 0)])
def test_experts_must_be_enough(experts: int, top_k: int) -> None:
    with pytest.raises(ConfigError, match="top_k"):
        MoEConfig(experts, top_k, 8)
