"""Finite logits of any sensible size stay finite, whatever parameters are accepted, and a token is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.sampling.masses import weigh
from brigade.engine.sampling.processors import edit_logits
from brigade.errors import RequestError
from tests.engine.sampling.test_sampler import Row

WIDTH = 12
LARGEST = float(np.float32(1e30))


def ends(*values: float) -> st.SearchStrategy[float]:
    """The bounds themselves, values just inside, and what lies beyond them."""
    return st.one_of(st.sampled_from(values), st.floats(min(values), max(values)), st.floats(0, 1e-3), st.floats(-1e-3, 1e3))


PARAMS = st.fixed_dictionaries(
    {
        "temperature": ends(0.0, 1e-4, 100.0), "top_k": st.sampled_from([0, 1, 5, 10**30]), "top_p": ends(5e-324, 1.0),
        "min_p": ends(0.0, 5e-324, 1.0), "repetition_penalty": ends(0.01, 100.0), "presence_penalty": ends(-2.0, 2.0),
        "frequency_penalty": ends(-2.0, 2.0),
        "logit_bias": st.dictionaries(st.integers(0, WIDTH - 1), ends(-100.0, 100.0), max_size=3),
    }
)  # fmt: skip
LOGITS = st.lists(st.one_of(st.floats(-LARGEST, LARGEST, width=32), st.floats(-50, 50, width=32)), min_size=WIDTH, max_size=WIDTH)


def accepted(asked: dict) -> SamplingParams | None:
    try:
        return SamplingParams(**asked)
    except RequestError:
        return None


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=PARAMS, values=LOGITS, output=st.lists(st.integers(0, WIDTH - 1), max_size=6), position=st.integers(0, 1000))
def test_finite_logits_stay_finite(asked: dict, values: list[float], output: list[int], position: int) -> None:
    params = accepted(asked)
    if params is None:
        return
    logits = torch.tensor([values])
    row = Row(params, position=position, prompt_token_ids=[0, 1], output_token_ids=output)
    edited = edit_logits(logits[0], row)
    assert torch.isfinite(edited).all()
    heat = np.float32(params.temperature or 1.0)
    assert torch.isfinite((edited - edited.max()) / float(heat)).all()
    weights = weigh(edited[None].numpy(), edited.max().reshape(1, 1).numpy(), heat.reshape(1, 1))
    assert np.isfinite(weights).all() and weights.max() == 1
    (sampled,) = Sampler().sample(logits, [row])
    assert 0 <= sampled.token_id < WIDTH


@pytest.mark.parametrize("penalty", [1e-40, 1e-9, 0.01, 100.0])
def test_the_smallest_penalty_keeps_a_large_logit_finite(penalty: float) -> None:
    """Refused, or harmless: one or the other."""
    params = accepted({"repetition_penalty": penalty})
    assert (params is None) is (penalty < 0.01)
    if params is not None:
        logits = torch.full((1, 4), LARGEST)
        Sampler().sample(logits, [Row(params, prompt_token_ids=[0, 1])])
