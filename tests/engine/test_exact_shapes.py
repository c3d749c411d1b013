"""The promise on networks of every shape: odd heads, groups, channels, widths and vocabularies, in every arrangement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import available_paths
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from tests.engine.fakes import CPU, SETUPS, Setup
from tests.engine.test_exact_under_load import HYPOTHESIS, Ask, check_tight, params_of

if len(SETUPS) == 1:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

HEAD_DIMS = (2, 8, 20, 34, 64, 80, 128)


@st.composite
def networks(draw) -> ModelConfig:
    """No size is a multiple of a vector but by chance."""
    kv_heads, share, dim = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.sampled_from(HEAD_DIMS))
    hidden, ffn = draw(st.integers(3, 90)), draw(st.integers(1, 130))
    gated, arrangement = draw(st.booleans()), draw(st.sampled_from(["pre", "parallel", "after", "sandwich"]))
    rope = RopeConfig(rotary_dim=2 * draw(st.integers(1, dim // 2)), interleaved=draw(st.booleans()))
    position = draw(st.sampled_from(["rope", "rope", "learned", "none"]))
    experts = MoEConfig(draw(st.integers(1, 5)), 1, draw(st.integers(1, 40)), shared_ffn_size=draw(st.sampled_from([0, 13])))
    experts = replace(experts, top_k=draw(st.integers(1, experts.num_experts)), layers=draw(st.sampled_from([(), (1,)])))
    biased = draw(st.booleans())
    return ModelConfig(
        "odd", vocab_size=draw(st.integers(2, 90)), num_layers=2, hidden_size=hidden, num_heads=kv_heads * share,
        num_kv_heads=kv_heads, head_dim=dim, ffn_size=ffn, max_positions=160, norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        activation=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])), gated=gated, position=position,
        rope=rope if position == "rope" else None, qkv_bias=biased, out_bias=biased, mlp_bias=biased,
        tied_head=draw(st.booleans()), parallel_residual=arrangement == "parallel", norm_after=arrangement == "after",
        sandwich_norm=arrangement == "sandwich", qk_norm=draw(st.sampled_from(["none", "head", "full"])),
        qkv_clip=draw(st.sampled_from([None, 1.5])), sliding_window=draw(st.sampled_from([None, 1, 9, 40, 70])),
        attention_softcap=draw(st.sampled_from([None, 5.0])), logit_softcap=draw(st.sampled_from([None, 3.0])),
        moe=experts if draw(st.booleans()) else None,
    )  # fmt: skip


def crowd_of(draw, vocab: int) -> list[Ask]:
    """Some with a common beginning, long enough for a block to be shared."""
    common = [(7 * i + 1) % vocab for i in range(70)]
    asks = []
    for _ in range(draw(st.integers(1, 5))):
        tail = draw(st.lists(st.integers(0, vocab - 1), min_size=1, max_size=12))
        prompt = (*common[: draw(st.sampled_from([0, 5, 33, 70]))], *tail)
        params = params_of(draw(st.integers(0, 2)), draw(st.integers(1, 10)), 1, 0)
        asks.append(Ask(prompt, params, draw(st.integers(0, 9)), None))
    return asks


def hold(setup: Setup, network: ModelConfig, data) -> None:
    asks = crowd_of(data.draw, network.vocab_size)
    setup = replace(setup, config=network, path=data.draw(st.sampled_from(available_paths())))
    check_tight(
        asks, setup, data.draw(st.integers(0, 1)), data.draw(st.integers(0, 3)),
        threads=data.draw(st.sampled_from([1, 2])), prefill_chunk=data.draw(st.integers(1, 70)),
        max_step_tokens=data.draw(st.integers(8, 100)), max_batch_size=data.draw(st.integers(1, 6)),
    )  # fmt: skip


@pytest.mark.parametrize("setup", CPU, ids=str)
@settings(max_examples=7, **HYPOTHESIS)
@given(network=networks(), data=st.data())
def test_a_request_is_the_same_alone_and_in_company(setup: Setup, network: ModelConfig, data) -> None:
    hold(setup, network, data)


@pytest.mark.parametrize("setup", CPU, ids=str)
def test_such_schedules_preempt_and_hit_the_prefix_cache(setup: Setup) -> None:
    """Guards the property: what it is about must really happen."""
    odd = ModelConfig(
        "odd", vocab_size=61, num_layers=2, hidden_size=45, num_heads=6, num_kv_heads=2, head_dim=20, ffn_size=37,
        max_positions=160, rope=RopeConfig(rotary_dim=14), sliding_window=40, windowed_layers=(0,),
    )  # fmt: skip
    common = tuple(range(1, 34))
    asks = [Ask((*common, i), params_of(i % 3, 40, i, 0), 2 * i, None) for i in range(6)]
    happened = check_tight(asks, replace(setup, config=odd), which=0, spare=3, prefill_chunk=13)
    assert happened.preemptions > 0 and happened.cached_tokens > 0


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["none", "int8", "int8-weight", "int4", "int4-int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@settings(max_examples=250, **HYPOTHESIS)
@given(network=networks(), data=st.data())
def test_many_more_shapes(dtype: str, quant: str, network: ModelConfig, data) -> None:
    hold(Setup("cpu", dtype, quant), network, data)
