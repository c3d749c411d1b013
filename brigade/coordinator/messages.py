"""What clients, the coordinator and replicas say to each other: typed msgpack, and nothing else is understood.

A request has a number that its client gave it. A request that a replica works on has a placement as well, which the coordinator
gives: a new one whenever it sends the request somewhere, never used twice, also not by a coordinator that was started again. What a
replica says of an old placement is dropped, so a replica that was given up and wakes cannot deliver a token.

`start` is the number of tokens that came before a piece in its sample: a client sees at once if one were missing or came twice.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from brigade.errors import FailureKind, RefusalKind

PROTOCOL = 4

Finish = Literal["stop", "length", "abort", "error"]
Prompt = str | list[int]
encode = msgspec.msgpack.Encoder().encode
Nothing = msgspec.Raw(b"\xc0")  # msgpack's nil


MAX_MESSAGE = 64 << 20  # bytes; a longer one ends its connection
MOST_DEPTH = 8  # of lists and mappings in each other
MOST_NAME = 200  # characters
MOST_ERROR = 1000  # characters of an error, which goes to every sample


def is_deeper(value: Any, most: int = MOST_DEPTH) -> bool:
    """Whether lists and mappings nest deeper than `most`: nobody needs it, and it is long to write and to show."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return most == 0 or any(is_deeper(one, most - 1) for one in inner)


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any of those below; told apart by their tags."""


class Heard(Message, array_like=True):
    """What a client has of one sample."""

    token_ids: list[int] = []
    characters: int = 0
    is_ended: bool = False


class Ask(Message):
    """A request as it was accepted. `params`: the sampling parameters beside those that the coordinator reads itself; what they
    do not name is as the model's own `defaults` say. `is_templated`: a chat template wrote the prompt, special tokens included.
    `deadline`: seconds from its acceptance in which it must have ended."""

    model: str
    prompt: Prompt
    n: int = 1
    priority: int = 0
    seed: int | None = None
    params: dict[str, Any] = {}
    deadline: float | None = None
    is_templated: bool = False


Row = tuple[int, float, int, list[tuple[int, float]]]  # a token's id, log-probability and rank, and the most likely at its place


class Rest(msgspec.Struct, array_like=True, frozen=True):
    """What a piece says beside tokens and text: between a replica and a client, and nothing that a coordinator reads.
    `prompt_token_ids` come with the first piece that a replica says of a request, the counts with the end of a sample."""

    logprobs: list[Row] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Row | None] | None = None
    stop_reason: str | int | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    steps: int = 0


class Piece(Message, array_like=True):
    """What one step added to one sample. `rest`: a `Rest`, or nothing. `kind`: of an error, where the request is not to blame."""

    number: int  # of the placement, from a replica; of the request, to a client
    index: int
    start: int
    token_ids: list[int]
    text: str = ""
    finish: Finish | None = None
    error: str | None = None
    rest: msgspec.Raw = Nothing
    kind: FailureKind | None = None


# From clients.


class Open(Message):
    """A request that a client has open, and what it has of each sample."""

    number: int
    heard: list[Heard]
    began_as: str = ""  # what `Begun` said of it


class Hello(Message, tag="hello"):
    """The first message on every connection, also when a client comes back: `key` names it for all its life, and `open` are the
    requests whose ends it has not seen."""

    protocol: int
    key: bytes
    open: list[Open] = []


class Submit(Message, tag="submit"):
    """A client never uses a number twice. `heard` and `began_as`: what the client has of a request that this coordinator does not
    know, and another one had begun."""

    number: int
    ask: Ask
    heard: list[Heard] = []
    began_as: str = ""


class Abort(Message, tag="abort"):
    number: int


class Acknowledge(Message, tag="acknowledge"):
    """The client has the ends of all samples: the request may be forgotten."""

    number: int


class Alive(Message, tag="alive"):
    """A sign of life; a client that is known hears one in return."""


class Bye(Message, tag="bye"):
    """The client leaves for good."""


class Look(Message, tag="look"):
    """How are you?"""


class Control(Message, tag="control"):
    """From operators alone, who have an address of their own."""

    action: Literal["pause", "resume", "drain", "stop"]


ClientMessage = Hello | Submit | Abort | Acknowledge | Alive | Bye | Look
OperatorMessage = Look | Control


# To clients.


class Welcome(Message, tag="welcome"):
    """`known`: of the requests that the client named, those that go on, and their seeds. It submits the others again. `most_open`:
    how many requests of one client may be open."""

    protocol: int
    known: dict[int, int]
    most_open: int


class Stranger(Message, tag="stranger"):
    """Nobody is known on this connection, or is known no more: say hello, again if it was said before."""


class Accepted(Message, tag="accepted"):
    """`seed`: the one that was given, or was drawn; with it the same tokens come again."""

    number: int
    seed: int


class Begun(Message, tag="begun"):
    """Comes before the first token. `identity`: a digest of how and with what it is computed. A client that comes back repeats it,
    so that a request never goes on with another model than it began with."""

    number: int
    identity: str


class Refused(Message, tag="refused"):
    """Nothing was accepted, and nothing will be heard of it. `number`: of the request; None: of whatever was said. `kind`: where
    the request is not to blame."""

    number: int | None
    error: str
    kind: RefusalKind | None = None


class Said(Message, tag="said"):
    """All that one round has for this client."""

    pieces: list[Piece]


class Identity(Message):
    """What must be equal for two replicas to produce the same tokens: how they compute, what they compute with, the longest
    request, and the model's own sampling parameters, for those that a request does not name. `has_tokenizer`: they read and say
    text. `vocab_size`: their ids are below that; `parameters`: the names of sampling parameters that were registered beside the
    built-in ones. `grammars`: what compiles constraints, with its version."""

    numerics_id: str
    fingerprint: str
    positions: int
    defaults: dict[str, Any] = {}
    has_tokenizer: bool = True
    vocab_size: int = 0
    parameters: list[str] = []
    grammars: str = ""

    @property
    def digest(self) -> str:
        return hashlib.blake2b(encode(self), digest_size=16).hexdigest()


class ReplicaState(Message):
    name: str
    model: str
    identity: Identity
    running: int
    capacity: int
    silent: float  # seconds since it was last heard


class Status(Message, tag="status"):
    state: str
    waiting: int
    running: int
    clients: int
    replicas: list[ReplicaState]
    counts: dict[str, int]


ToClient = Welcome | Stranger | Accepted | Begun | Refused | Said | Status | Alive


# From replicas.


class Register(Message, tag="register"):
    """`capacity`: samples that it takes at once; `cache`: positions that its prefix cache holds. `life`: drawn once by each
    process, which takes its own name again at once when it registers anew. `machine` and `process`: where it runs, so that a
    coordinator of the same machine sees its end."""

    protocol: int
    name: str
    model: str
    identity: Identity
    capacity: int
    cache: int = 0
    life: bytes = b""
    machine: str = ""
    process: int = 0


class Frame(Message, tag="frame"):
    """One step of all its requests. `layers`: how many it has finished in its life. `cached`: of placements that end here, how many
    of the prompt's ids it had in its prefix cache, and how many there were: (placement, cached, all)."""

    layers: int
    pieces: list[Piece]
    cached: list[tuple[int, int, int]] = []


class Beat(Message, tag="beat"):
    """A sign of life. One whose layers do not grow while it has work hangs, unless `is_reading`: it still reads all the requests
    that it has, such as a constraint and the many tokens behind it, and computes none of them so far."""

    layers: int
    is_reading: bool = False


class Rejected(Message, tag="rejected"):
    """The request of this placement can never be served by this model; the others go on."""

    placement: int
    error: str


class Leaving(Message, tag="leaving"):
    """Its requests go on elsewhere. `error`: what it dies of, if it does not leave by its own will."""

    error: str | None = None


ReplicaMessage = Register | Frame | Beat | Rejected | Leaving


# To replicas.


class Enrolled(Message, tag="enrolled"):
    """Registered. Whatever it was working on before belongs to others now, and is to be dropped."""


class TurnedAway(Message, tag="turned away"):
    """`then`: whether to register again at once, for nobody is known on this connection; or later, for the name is another's still;
    or never, for this replica does not fit, or hangs."""

    error: str
    then: Literal["register", "wait", "end"]


class Place(Message, tag="place"):
    placement: int
    ask: Ask
    heard: list[Heard]


class Withdraw(Message, tag="withdraw"):
    """Nobody wants to hear of this placement any more."""

    placement: int


class Stop(Message, tag="stop"):
    """End yourself."""


ToReplica = Enrolled | TurnedAway | Place | Withdraw | Stop

decode_from_client = msgspec.msgpack.Decoder(ClientMessage).decode
decode_from_operator = msgspec.msgpack.Decoder(OperatorMessage).decode
decode_to_client = msgspec.msgpack.Decoder(ToClient).decode
decode_from_replica = msgspec.msgpack.Decoder(ReplicaMessage).decode
decode_rest = msgspec.msgpack.Decoder(Rest | None).decode
decode_to_replica = msgspec.msgpack.Decoder(ToReplica).decode
