"""A coordinator's clients: the same calls as an `LLM`'s, answered by replicas elsewhere."""

from brigade.client.client import AsyncClient, Client, Operator

__all__ = ["AsyncClient", "Client", "Operator"]
