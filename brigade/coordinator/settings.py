"""What a coordinator is told at its start: bounds, and how long it waits for whom."""

from __future__ import annotations

from dataclasses import dataclass

from brigade.errors import ConfigError

ROUTINGS = ("prefix", "least-loaded", "round-robin")


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """Times are in seconds."""

    routing: str = "prefix"
    replica_timeout: float = 10.0  # a replica that is silent for so long is gone
    hang_timeout: float = 60.0  # one that has work and finishes no layer for so long is gone too
    no_replica_timeout: float = 60.0  # how long requests wait when there is no replica at all
    client_timeout: float = 10.0  # a client that is silent for so long is away
    client_grace: float = 30.0  # how long requests of a client that is away are kept for its return; none runs meanwhile
    restart_grace: float = 60.0  # the same for those that a journal gives back: their clients have to find the way first
    max_requests: int = 20_000  # open at once; more are refused
    max_requests_of_client: int = 10_000
    max_clients: int = 1_000
    max_samples: int = 1_024  # of one request

    @property
    def most_of_client(self) -> int:
        """What one client may have open while no other has anything."""
        return min(self.max_requests, self.max_requests_of_client)

    def __post_init__(self) -> None:
        if self.routing not in ROUTINGS:
            raise ConfigError(f"routing is {self.routing!r}; it must be one of {', '.join(ROUTINGS)}")
        for name in ("replica_timeout", "hang_timeout", "client_timeout"):
            value = getattr(self, name)
            if not 0.1 <= value <= 86_400:
                raise ConfigError(f"{name} is {value!r}; it must be a number of seconds from 0.1 to 86400")
        for name in ("no_replica_timeout", "client_grace", "restart_grace"):
            value = getattr(self, name)
            if not 0 <= value <= 86_400:
                raise ConfigError(f"{name} is {value!r}; it must be a number of seconds from 0 to 86400")
        for name in ("max_requests", "max_requests_of_client", "max_clients", "max_samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be an integer of 1 or more")
