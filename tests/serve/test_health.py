"""What a server knows of its replicas, through every outage of their coordinator."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from brigade.errors import CoordinatorSilent, EngineStopped
from brigade.serve import health
from brigade.serve.errors import ApiError
from brigade.serve.health import FleetHealth
from tests.serve.raw import becomes


class Client:
    """Its coordinator says this, one after the other, and the last for ever."""

    address = "tcp://there:6500"

    def __init__(self, *says: Any) -> None:
        self.then(*says)

    def then(self, *says: Any) -> None:
        self._says = deque(says)

    def status(self, timeout: float) -> Any:
        says = self._says
        said = says.popleft() if len(says) > 1 else says[0]
        if isinstance(said, Exception):
            raise said
        return said


def replicas(*identities: Any) -> Any:
    return SimpleNamespace(replicas=[SimpleNamespace(model="model", identity=one) for one in identities], running=0, waiting=0)


def threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "brigade-health"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch) -> None:
    monkeypatch.setattr(health, "PERIOD", 0.01)


def test_it_is_well_again_when_a_coordinator_comes_back_after_a_long_outage() -> None:
    """Longer than the client's patience, so that the client tells everybody who waits that the coordinator is silent."""
    client, followed = Client(replicas("a"), CoordinatorSilent("it has said nothing for 60 s")), []
    made = FleetHealth(client, "model")
    made.follow = followed.append
    assert becomes(lambda: made.state() == {"num_replicas": 0})
    with pytest.raises(ApiError) as refused:
        made.check()
    assert refused.value.status == 503 and refused.value.code == "no_coordinator"
    client.then(replicas("b", "b"))
    assert becomes(lambda: made.state()["num_replicas"] == 2, 2)
    assert made.check() == {"status": "ok", "replicas": 2} and becomes(lambda: "b" in followed, 2)
    client.then(EngineStopped("the client was closed"))


def test_it_asks_no_more_when_its_client_is_closed() -> None:
    before = threads()
    FleetHealth(Client(replicas("a"), replicas("a"), EngineStopped("the client was closed")), "model")
    assert becomes(lambda: threads() <= before)  # of those before, one may end meanwhile


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr("sys.stderr", Gone())
    client = Client(replicas(), replicas("a"))
    made = FleetHealth(client, "model", 2)
    assert becomes(lambda: made.state()["num_replicas"] == 1)
    client.then(replicas("a", "a"))
    assert becomes(lambda: made.state()["num_replicas"] == 2, 2)
    client.then(EngineStopped("the client was closed"))
