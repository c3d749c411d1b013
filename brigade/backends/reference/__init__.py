"""Plain torch, any device: the yardstick of every other backend."""

from brigade.backends.reference.backend import ReferenceBackend

__all__ = ["ReferenceBackend"]
