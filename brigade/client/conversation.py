"""What a client says to a coordinator, and what it makes of the answers: messages and the time come in, messages go out.

The coordinator may die and come back, and so may the connection; nobody here notices but `Conversation`. It says hello whenever
the coordinator does not know it, names what it has of each open request, and hears the rest. A piece that is not the next one
(some were lost with a connection) is not delivered: hello is said on a new connection instead.

A coordinator takes a bounded number of requests of one client, says how many, and refuses more. So no more are ever open than that;
the others wait here, and are submitted as earlier ones end: by priority, and within one priority in the order in which they were
asked.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from brigade.client.asked import Asked
from brigade.coordinator.messages import (
    PROTOCOL,
    Abort,
    Accepted,
    Acknowledge,
    Alive,
    Begun,
    Bye,
    Hello,
    Look,
    Message,
    Open,
    Refused,
    Said,
    Status,
    Stranger,
    Submit,
    ToClient,
    Welcome,
)
from brigade.engine.outputs import Delta
from brigade.errors import CoordinatorSilent, EngineStopped, ModelReplaced, RequestError

BEAT = 1.0  # seconds between signs of life
AGAIN = 2.0  # after which a hello without an answer is said again


class Conversation:
    """`patience`: seconds without a word of the coordinator after which everybody who waits is told that it is gone.
    `first_patience`: the same for requests that no coordinator has accepted yet, which lose nothing by it."""

    def __init__(self, address: str, patience: float, now: float, first_patience: float | None = None) -> None:
        self.key = secrets.token_bytes(16)
        self.address, self.patience = address, patience
        self.first_patience = patience if first_patience is None else first_patience
        self.is_known = False  # the coordinator has said welcome on this connection
        self.most_open = 0  # what it takes of one client: known with the welcome
        self.is_broken = False  # something was lost on it: there must be another
        self.refused: str | None = None  # why it will not
        self._open: dict[int, Asked] = {}  # those that were submitted, by number
        self._waiting: dict[int, Asked] = {}  # those that were not yet
        self._turns: list[tuple[int, int]] = []  # a heap of their priorities and numbers, with some that were aborted since
        self._looks: list[Callable[[Status | Exception], None]] = []
        self._sends: list[Message] = []
        self._heard, self._greeted, self._alive = now, now, now
        self._told = now  # when everybody was told last that the coordinator is gone; who asks after that has its own patience
        self._greet(now)

    # What callers ask.

    def submit(self, asked: Asked) -> None:
        self._waiting[asked.number] = asked
        heapq.heappush(self._turns, (asked.ask.priority, asked.number))

    def abort(self, number: int) -> None:
        """Its place is filled in `take` and not here: of many that are aborted one after the other, none is submitted before its
        turn to be aborted comes."""
        if self._waiting.pop(number, None) is not None and len(self._turns) > 2 * len(self._waiting):
            self._turns = [turn for turn in self._turns if turn[1] in self._waiting]
            heapq.heapify(self._turns)
        if self._open.pop(number, None) is not None and self.is_known:
            self._sends.append(Abort(number))  # else the welcome finds that it is not wanted any more

    def look(self, reader: Callable[[Status | Exception], None]) -> None:
        self._submit_waiting()  # so that it tells of what was asked before it
        self._looks.append(reader)
        self._sends.append(Look())

    def leave(self) -> None:
        self._sends.append(Bye())

    def connect_again(self, now: float) -> None:
        """There is a new connection, on which nobody is known."""
        self.is_broken = False
        self._greet(now)

    # What the coordinator says.

    def hear(self, message: ToClient, now: float) -> None:
        self._heard = now
        if isinstance(message, Said):
            for piece in message.pieces:
                asked = self._open.get(piece.number)
                if asked is None:  # it was aborted, or its end was heard
                    if piece.finish is not None:
                        self._sends.append(Abort(piece.number))
                    continue
                try:
                    delta = asked.take(piece)
                except (ValueError, msgspec.MsgspecError):
                    self.is_broken = True
                    return
                self._tell(asked, delta)
        elif isinstance(message, Welcome):
            self._welcome(message)
        elif isinstance(message, Stranger):
            if self.is_known or now - self._greeted >= AGAIN:
                self._greet(now)
        elif isinstance(message, Accepted):
            if message.number in self._open:
                self._open[message.number].accept(message.seed)
        elif isinstance(message, Begun):
            if message.number in self._open:
                self._begin(self._open[message.number], message.identity)
        elif isinstance(message, Refused):
            self._refuse(message)
        elif isinstance(message, Status):
            looks, self._looks = self._looks, []
            for reader in looks:
                _hand(reader, message)
        else:
            assert isinstance(message, Alive)

    def _welcome(self, message: Welcome) -> None:
        if self.is_known:  # the answer to a hello that was said twice: it knows nothing of what was submitted since
            return
        self.is_known, self.most_open = True, message.most_open
        self._sends += [Abort(number) for number in message.known if number not in self._open]
        for number, asked in list(self._open.items()):
            if number in message.known:
                asked.accept(message.known[number])
            else:  # to be submitted again when there is room: this coordinator may take fewer
                self.submit(self._open.pop(number))

    def _begin(self, asked: Asked, identity: str) -> None:
        """Comes before the first token, so nobody hears one of what was not asked for."""
        if asked.identity and asked.identity != identity:
            self.abort(asked.number)
            _hand(asked.reader, ModelReplaced("its replicas were replaced by those of another model meanwhile; ask again"))
        else:
            asked.began_as = identity

    def _refuse(self, message: Refused) -> None:
        if message.number is None:
            if not self.is_known:
                self.refused = message.error
            return
        asked = self._open.pop(message.number, None)
        if asked is not None:
            _hand(asked.reader, RequestError(message.error, kind=message.kind))

    def _tell(self, asked: Asked, delta: Delta) -> None:
        good = not asked.deltas or _hand(asked.reader, delta)
        if asked.is_over:
            del self._open[asked.number]
            self._sends.append(Acknowledge(asked.number))
            if good:
                _hand(asked.reader, asked.output())
        elif not good:
            self.abort(asked.number)

    # Time.

    def tick(self, now: float) -> None:
        if now - self._alive >= BEAT:
            self._alive = now
            self._sends.append(Alive())
            if self._looks:
                self._sends.append(Look())
        if not self.is_known and now - self._greeted >= AGAIN:
            self._greet(now)
        if now - max(self._heard, self._told) >= self.patience:
            self._sends += [Abort(number) for number in self._open]
            self.stop(self._silent(self.patience))
            self._told = now
        elif self.first_patience < self.patience and now - self._heard >= self.first_patience:
            new = [one for those in (self._open, self._waiting) for one in those.values() if not one.is_accepted]
            for asked in new:
                self.abort(asked.number)
                _hand(asked.reader, self._silent(self.first_patience))

    def _silent(self, seconds: float) -> CoordinatorSilent:
        return CoordinatorSilent.of(self.address, seconds)

    def stop(self, why: EngineStopped) -> None:
        """Everybody who waits is told; nothing is open any more."""
        for those in (self._open, self._waiting):
            while those:
                _, asked = those.popitem()
                _hand(asked.reader, why)
        self._turns.clear()
        while self._looks:
            _hand(self._looks.pop(), why)

    def take(self) -> list[Message]:
        """What is to be sent now."""
        self._submit_waiting()
        sends, self._sends = self._sends, []
        return sends

    def _submit_waiting(self) -> None:
        """As many as there is room for. The coordinator hears of an end before it hears of what takes its place."""
        while self.is_known and self._waiting and len(self._open) < self.most_open:
            number = heapq.heappop(self._turns)[1]
            asked = self._waiting.pop(number, None)
            if asked is not None:
                self._open[number] = asked
                self._sends.append(_submission(asked))

    def _greet(self, now: float) -> None:
        """What was to be said before is said by the open requests."""
        self.is_known, self._greeted = False, now
        opened = [Open(number, asked.heard(), asked.began_as) for number, asked in self._open.items()]
        self._sends = [one for one in self._sends if isinstance(one, (Look, Acknowledge))] + [Hello(PROTOCOL, self.key, opened)]


def _submission(asked: Asked) -> Submit:
    """For the first time, or with what was heard of it."""
    if not asked.is_accepted:
        return Submit(asked.number, asked.ask)
    ask = msgspec.structs.replace(asked.ask, seed=asked.seed)
    return Submit(asked.number, ask, asked.heard(), asked.began_as)


def _hand(reader: Callable[[Any], None], said: Any) -> bool:
    """Whether the reader took it."""
    try:
        reader(said)
    except Exception:
        return False
    return True
