"""Quantising: what stays whole, and scales that miss the weights less than plain rounding does."""

from __future__ import annotations

import pytest
import torch

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.matrix import pack
from brigade.backends.cpu.quant import Quant, skip_list
from brigade.errors import UserError


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_misses_every_group_less_than_plain_rounding(group: int) -> None:
    weight = torch.randn(40, 256, generator=torch.Generator().manual_seed(1))
    groups = weight.view(40, -1, group)
    scale = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / scale).round().clamp(-7, 7) * scale - groups).square().sum(-1)
    ours = (pack(weight, None, "int4", tree=False, group=group).unpack().view_as(groups) - groups).square().sum(-1)
    assert (ours <= plain * 1.0001).all() and ours.sum() < 0.9 * plain.sum()


def test_numbers_that_four_bits_can_say_are_kept() -> None:
    weight = torch.randint(-7, 8, (32, 128), generator=torch.Generator().manual_seed(2)).float() / 8
    weight[:, ::32] = 7 / 8
    assert torch.equal(pack(weight, None, "int4", tree=False, group=32).unpack(), weight)
    assert torch.equal(pack(torch.zeros(3, 64), None, "int4", tree=True).unpack(), torch.zeros(3, 64))


def test_a_skip_list_that_leaves_nothing_is_refused() -> None:
    assert skip_list(["head", "0", "1.qkv", "1.up", "1.down"], 2) == ("0", "1.qkv", "1.up", "1.down", "head")
    for every in (["0", "1", "head"], ["head", "1", "0.up", "0.down", "0.out", "0.qkv"]):
        with pytest.raises(UserError, match="leaves nothing to quantise"):
            skip_list(every, 2)


def test_a_skip_list_is_put_in_one_order() -> None:
    assert skip_list(["head", "3.down", "1.qkv", "1.out", "1.up", "1.down", "3.down"], 4) == ("1", "3.down", "head")
    assert Quant("int8", ("1", "3.down")).label == "int8-skip-1+3.down"
    long = Quant("int8", tuple(str(i) for i in range(30)))
    assert len(long.label) < 24 and long.label != Quant("int8", tuple(str(i) for i in range(29))).label


def test_what_a_scheme_touches() -> None:
    quant = Quant("int4", ("1", "2.down", "head"))
    own = {name: quant.of(name, "bfloat16") for name in ("layers.0.attention.qkv", "layers.0.mlp.experts.up.5", "layers.2.mlp.up")}
    assert set(own.values()) == {"int4"}
    for name in ("layers.1.mlp.up", "layers.2.mlp.experts.down.0", "head", "layers.0.mlp.router", "project_out"):
        assert quant.of(name, "bfloat16") == "bfloat16"
    assert Quant("int4").of("head", "bfloat16") == "int8-weight" and Quant().of("head", "bfloat16") == "bfloat16"


@pytest.mark.parametrize("name", ["4", "-1", "1.gate", "", "heads", "1.", "1,2", "99999999999"])
def test_a_name_that_is_none_is_refused_with_the_range(name: str) -> None:
    with pytest.raises(UserError, match="the model has layers 0 to 3"):
        skip_list([name], 4)
