"""What one client may ask of the server at most, so that nobody can stop the others."""

from __future__ import annotations

from dataclasses import dataclass, fields

from brigade.errors import ConfigError

# Of one request. They are far above what clients ask for, and below what would hold the server's memory or its steps.
MOST_TOKENS = 1 << 24  # of all its answers together, as long as they may become: 128 answers of 131,072 tokens
# In all its answers together, and of its prompts. Each takes about 120 bytes until the request ends, and 430 more while the whole
# answer of a chat is written: 0.5 GB, and 2.3 GB for that moment. A single answer may have those of all its tokens.
MOST_LOGPROBS = 1 << 22
MOST_STOP_CHARACTERS = 4096  # of all its stop strings together
MOST_STOP_IDS = 4096
MOST_BIASES = 1024  # tokens in its logit_bias
LEAST = {"header_bytes": 1024, "body_bytes": 256}  # below these a server would refuse what usual clients send, however short


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes and counts; each is an option of `brigade serve`."""

    connections: int = 4096
    header_bytes: int = 64 << 10
    body_bytes: int = 16 << 20
    header_seconds: float = 20.0  # from the first byte of a request to the end of its headers, and for a new connection to speak
    body_seconds: float = 60.0  # until the body is there
    keep_alive_seconds: float = 60.0  # that a connection may stay open between requests
    send_seconds: float = 60.0  # that a client may leave what was sent to it unread
    drain_seconds: float = 600.0  # that streams may go on after SIGTERM

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            least = LEAST.get(one.name, 1 if one.type == "int" else 0.001)
            if not least <= value <= 1e12:
                raise ConfigError(f"--{one.name.replace('_', '-')} is {value}; it must be {least} or more")
