"""Logits to ids: parameters, processors, filters, the generator, and log-probabilities."""

from brigade.engine.sampling.extra import register_parameter
from brigade.engine.sampling.params import SamplingParams
from brigade.engine.sampling.sampler import Sampler, SamplingRule

__all__ = ["Sampler", "SamplingParams", "SamplingRule", "register_parameter"]
