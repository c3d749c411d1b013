"""Who may ask: API keys, compared in a time that says nothing of them, and a cache salt for each."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brigade.errors import ConfigError
from brigade.serve.errors import ApiError

LEAST = 8  # characters of a key


@dataclass(frozen=True)
class Caller:
    """`salt`: what requests of this key share cached prompts by. None where there are no keys."""

    name: str | None = None
    salt: str | None = None

    def salted(self, given: str | None) -> str | None:
        """The salt of a request that brings one of its own, or none: no two keys have the same."""
        if self.salt is None or given is None:
            return given if self.salt is None else self.salt
        return hmac.new(self.salt.encode(), given.encode(), "sha256").hexdigest()


class ApiKeys:
    """None at all: everybody may ask. The log names a key by its number and the beginning of its digest."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for place, key in enumerate(keys):
            _check(key, f"API key {place + 1}")
        self._digests = [hashlib.sha256(key.encode()).digest() for key in dict.fromkeys(keys)]
        self._secret = os.urandom(32)

    def __len__(self) -> int:
        return len(self._digests)

    def caller(self, authorization: bytes | None) -> Caller:
        if not self._digests:
            return Caller()
        if authorization is None:
            raise ApiError(401, "no API key was given; send the header Authorization: Bearer KEY", code="invalid_api_key")
        scheme, _, given = authorization.partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        matches = [hmac.compare_digest(digest, one) for one in self._digests]  # all of them, whichever it is
        if scheme.lower() != b"bearer" or not any(matches):
            raise ApiError(
                401, "this API key is not known here; check the header Authorization: Bearer KEY", code="invalid_api_key"
            )
        place = matches.index(True)
        salt = hmac.new(self._secret, digest, "sha256").hexdigest()[:32]
        return Caller(f"{place + 1}:{digest.hex()[:8]}", salt)


def read_keys(given: Sequence[str], file: Path | None) -> ApiKeys:
    """`file`: one key a line; empty lines and those that begin with # are passed over."""
    keys = list(given)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read ({error}); give a text file with one key a line") from error
        found = {at: line.strip() for at, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")}
        if not found:
            raise ConfigError(f"{file} holds no key; write one key a line, or drop --api-key-file")
        for at, key in found.items():
            _check(key, f"line {at} of --api-key-file {file}")
        keys += found.values()
    return ApiKeys(keys)


def _check(key: str, where: str) -> None:
    """The key itself is not said: this line may be kept in a log."""
    if len(key) < LEAST or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} is no key of at least {LEAST} printable ASCII characters without spaces; choose another")
