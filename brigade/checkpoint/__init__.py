"""Checkpoints in: files proven whole, names mapped, weights in place."""
