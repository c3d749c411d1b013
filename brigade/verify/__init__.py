"""Proofs of the promise: what a model said once, kept in a golden file and found again on any layout, bit for bit."""
