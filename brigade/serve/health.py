"""Whether the engine steps, and what runs at this moment: of an `LLM` in this process, or of a coordinator's replicas."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from brigade.coordinator.messages import Identity
from brigade.coordinator.words import say
from brigade.errors import ConfigError, CoordinatorSilent, EngineStopped
from brigade.serve.errors import ApiError

PERIOD, PATIENCE = 1.0, 2.0  # seconds between two questions to a coordinator, and for its answer
HANGS = 60.0  # seconds without a finished layer, while there is work, after which an engine hangs


class Health(ABC):
    @abstractmethod
    def check(self) -> dict[str, Any]:
        """What `/health` says; an `ApiError` of status 503 where nothing can be computed."""

    @abstractmethod
    def state(self) -> dict[str, float]:
        """The numbers of this moment, by the names of `metrics.WORDS`."""


class EngineHealth(Health):
    """`llm` is in this process. Asked often, it notices that layers are finished; one that finishes none hangs."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._layers, self._since, self._looked = -1, time.monotonic(), time.monotonic()

    def check(self) -> dict[str, Any]:
        failure = self._llm.failure
        if failure is not None:
            raise ApiError(503, f"the engine stopped: {failure}", code="engine_stopped")
        layers, has_work, now = self._llm.layers_finished, self._llm.engine.has_work, time.monotonic()
        if layers != self._layers or not has_work or now - self._looked > HANGS / 2:  # who seldom looks knows little
            self._layers, self._since = layers, now
        self._looked = now
        silent = now - self._since
        if silent > HANGS:
            raise ApiError(503, f"the engine has work, and has not finished a layer for {silent:.0f} s", code="engine_hangs")
        return {"status": "ok"}

    def state(self) -> dict[str, float]:
        engine = self._llm.engine
        pool = engine.pool
        return {
            "num_requests_running": engine.num_running, "num_requests_waiting": engine.num_waiting,
            "kv_cache_usage_perc": 1 - pool.num_free / pool.num_blocks,
        }  # fmt: skip


class FleetHealth(Health):
    """`client` asks a coordinator every second, on a thread of its own: whoever looks here waits for nothing. It ends with the
    client. `wanted`: how many replicas there are to be, where that is known; when their number changes, a line says so. `follow` is
    called with what the replicas are."""

    def __init__(self, client: Any, model: str, wanted: int | None = None) -> None:
        self._client, self._model, self._wanted = client, model, wanted
        self.follow: Callable[[Identity], None] | None = None
        self._ready = 0
        self._heard = time.monotonic()  # when the coordinator answered last
        self._said = self._ask()
        self._note()
        threading.Thread(target=self._keep_asking, name="brigade-health", daemon=True).start()

    def _keep_asking(self) -> None:
        while not isinstance(self._said, EngineStopped) or isinstance(self._said, CoordinatorSilent):  # who is silent may come back
            time.sleep(PERIOD)
            self._said = self._ask()
            self._note()

    def _note(self) -> None:
        if isinstance(self._said, Exception):
            return
        there = self._replicas(self._said)
        if there and self.follow is not None:
            self.follow(there[0].identity)
        if self._wanted is not None and len(there) != self._ready:
            self._ready = len(there)
            say(f"brigade: {how_many(self._ready, self._wanted)}")

    def _replicas(self, status: Any) -> list[Any]:
        return [one for one in status.replicas if one.model == self._model]

    def _ask(self) -> Any:
        try:
            said = self._client.status(timeout=PATIENCE)
        except Exception as error:
            return error
        self._heard = time.monotonic()
        return said

    def _look(self) -> Any:
        said = self._said
        if isinstance(said, Exception):
            silent = CoordinatorSilent.of(self._client.address, round(time.monotonic() - self._heard))
            words = str(silent if isinstance(said, (ConfigError, CoordinatorSilent)) else said)  # a status that did not come
            raise ApiError(503, words, code="no_coordinator", retry_after=5) from said
        return said

    def check(self) -> dict[str, Any]:
        replicas = self._replicas(self._look())
        if not replicas:
            raise ApiError(503, "no replica works at present", code="no_replica", retry_after=5)
        return {"status": "ok", "replicas": len(replicas)} | ({} if self._wanted is None else {"replicas_wanted": self._wanted})

    def state(self) -> dict[str, float]:
        try:
            status = self._look()
        except ApiError:
            return {"num_replicas": 0}
        replicas = len(self._replicas(status))
        return {"num_requests_running": status.running, "num_requests_waiting": status.waiting, "num_replicas": replicas}


def how_many(ready: int, wanted: int) -> str:
    if ready == wanted:
        return f"all {wanted} replicas are ready"
    others = "the other one is" if wanted - ready == 1 else f"the other {wanted - ready} are"
    if ready == 0:
        return f"none of {wanted} replicas is ready: requests wait until one is"
    return f"{ready} of {wanted} replicas {'is' if ready == 1 else 'are'} ready, {others} loading"
