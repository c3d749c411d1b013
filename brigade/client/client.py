"""`Client` and `AsyncClient`: a coordinator's model, asked like an `LLM` of one's own. `Operator`: who may pause, drain and stop.

Replicas may die and the coordinator be started again while a request runs: its caller sees a pause, and not one token changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import zmq

from brigade.api.faces import AsyncFace, BlockingFace, Params, named_params
from brigade.client.thread import ClientThread, Wish
from brigade.coordinator.connect import connect
from brigade.coordinator.keys import Keys
from brigade.coordinator.messages import MAX_MESSAGE, Ask, Control, Look, Refused, Status, decode_to_client, encode
from brigade.engine.prompt import ChatPrompt, Prompt, read_ids
from brigade.engine.sampling.params import PARAMETERS, SamplingParams
from brigade.errors import ConfigError, RequestError

LEAST_PATIENCE = 3.0  # seconds: several signs of life
APART = ("n", "seed", "priority")  # what a coordinator reads itself


class _Asking:
    """What both kinds of client are. `model`: the name under which it is served; it may be left out where there is one. `patience`:
    seconds without a word of the coordinator after which calls end with an `EngineStopped`; `first_patience`: the same for requests
    that it has not accepted yet (default: `patience`). `keys`: a folder of `brigade keys`."""

    def __init__(
        self,
        address: str,
        model: str | None = None,
        *,
        keys: str | Path | None = None,
        connect_timeout: float = 10.0,
        patience: float = 60.0,
        first_patience: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("patience", patience), ("first_patience", first_patience)):
            if value is not None and not LEAST_PATIENCE <= value <= 1e9:
                raise ConfigError(f"{name} is {value!r}; it must be a number of seconds of {LEAST_PATIENCE:g} or more")
        self.address = address
        self.thread = ClientThread(address, patience, None if keys is None else Keys(Path(keys)), first_patience)
        try:
            self.model = self._find_model(connect_timeout) if model is None else model
        except BaseException:
            self.thread.close()
            raise

    def _find_model(self, timeout: float) -> str:
        names = sorted({replica.model for replica in self.thread.look(timeout).replicas})
        if len(names) != 1:
            served = f"serves {', '.join(names)}" if names else "has no replica yet"
            remedy = "give one of them as model" if names else "start one with `brigade replica`, or give model"
            raise ConfigError(f"no model was named, and the coordinator at {self.address} {served}; {remedy}")
        return names[0]

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model reads and says text, and not ids alone; true as long as no replica of it is there to say."""
        return all(one.identity.has_tokenizer for one in self.status().replicas if one.model == self.model)

    def status(self, timeout: float = 10.0) -> Status:
        """What runs and what waits, and which replicas there are."""
        return self.thread.look(timeout)

    def _prepare(self, prompt: Prompt, params: Params, identity: str = "") -> Wish:
        given = _given(params)
        apart = {name: given.pop(name) for name in APART if name in given}
        plain = prompt.text if isinstance(prompt, ChatPrompt) else prompt if isinstance(prompt, str) else read_ids(prompt)
        ask = Ask(self.model, plain, params=given, is_templated=isinstance(prompt, ChatPrompt), **apart)
        try:
            size = len(encode(ask))
        except (TypeError, OverflowError, UnicodeEncodeError) as error:
            raise RequestError(
                f"this request cannot be written down to be sent ({error}); mend the prompt or its parameters"
            ) from error
        if size > MAX_MESSAGE // 2:
            raise RequestError(f"a request has {size} bytes; {MAX_MESSAGE // 2} are allowed: shorten the prompt", "prompt")
        return Wish(ask, plain if isinstance(plain, str) else None, given.get("logprobs") is not None, identity)

    def close(self) -> None:
        self.thread.close()


def _given(params: Params) -> dict[str, Any]:
    """The parameters that were said: what is not stays as the model's own defaults have it."""
    if params is None:
        return {}
    if isinstance(params, SamplingParams):
        return {name: getattr(params, name) for name in PARAMETERS}
    if not isinstance(params, Mapping):
        raise RequestError(f"params is a {type(params).__name__}; give SamplingParams(...), a mapping, or None for the defaults")
    checked, given = named_params(SamplingParams, params), dict(params)
    if "constraint" in given:  # as it travels: a schema is deeper than a message may be
        given["constraint"] = checked.constraint
    return given


class Client(_Asking, BlockingFace):
    """For threads: `generate` and `stream`, as an `LLM` has them. A stream that is closed half read is aborted."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Asking, AsyncFace):
    """For tasks: `generate` and `stream`, as an `AsyncLLM` has them. A task that is cancelled aborts its request."""

    def prepare(self, prompt: Prompt, params: Params = None, identity: str = "") -> Wish:
        """`identity`: the digest of the replicas' identity that the answer must come from, or else be a `ModelReplaced`."""
        return self._prepare(prompt, params, identity)

    def close(self) -> None:
        AsyncFace.close(self)
        self.thread.close()


class Operator:
    """Speaks to a coordinator's address for operators."""

    def __init__(self, address: str, keys: str | Path | None = None, timeout: float = 10.0) -> None:
        self.address, self.timeout = address, timeout
        self._context, self._keys = zmq.Context(), None if keys is None else Keys(Path(keys))
        self._socket = self._connect()

    def _connect(self) -> zmq.Socket:
        return connect(self._context, self.address, "operators", self._keys)

    def status(self) -> Status:
        return self._ask(Look())

    def control(self, action: Literal["pause", "resume", "drain", "stop"]) -> Status:
        """`docs/coordinator.md` says what each does. One that cannot be asked now is refused."""
        return self._ask(Control(action))

    def wait_empty(self, timeout: float) -> bool:
        """Until no request is open; False where that takes longer."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            status = self.status()
            if status.waiting + status.running == 0:
                return True
            time.sleep(0.1)
        return False

    def _ask(self, message: Look | Control) -> Status:
        self._socket.send(encode(message))
        if not self._socket.poll(self.timeout * 1000):
            self._socket.close(0)  # an answer that comes late is none to the next question
            self._socket = self._connect()
            raise ConfigError(
                f"no coordinator answers at {self.address} ({self.timeout:g} s); give its address for operators, and its keys"
            )
        said = decode_to_client(self._socket.recv())
        if isinstance(said, Refused):
            raise ConfigError(said.error)
        assert isinstance(said, Status)
        return said

    def close(self) -> None:
        self._context.destroy(linger=0)
