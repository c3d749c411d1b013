"""Requests, cache, scheduler, sampler, controller, and the two engines."""
