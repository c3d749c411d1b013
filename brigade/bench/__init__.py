"""Measuring: simulated requests, what they cost, and the engine's own work."""
