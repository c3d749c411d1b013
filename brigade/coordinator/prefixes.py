"""Which beginnings of prompts a replica probably still holds in its prefix cache.

The coordinator remembers what it sent to a replica, in order. The cache keeps the latest, so an estimate of how far back it reaches
is enough; after each request the replica reports how much of the prompt it had, and that corrects the estimate.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from brigade.coordinator.messages import Prompt

CHUNK = {str: 256, list: 64}  # of a prompt: characters, or ids
MOST_PREFIXES = 1 << 18  # of one replica
MOST_CHUNKS = 64  # of one prompt: prompts that are equal so far share all that matters


def prompt_keys(prompt: Prompt, salt: object = None) -> list[bytes]:
    """A digest of every beginning that is made of whole chunks, the shortest first. Requests of another `salt` share none."""
    size = CHUNK[type(prompt)]
    digest, keys = hashlib.blake2b(b"" if salt is None else repr(salt).encode("utf-8", "surrogatepass"), digest_size=8), []
    for start in range(0, min(len(prompt), size * MOST_CHUNKS) - size + 1, size):
        chunk = prompt[start : start + size]
        digest.update(chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else repr(chunk).encode())
        keys.append(digest.copy().digest())
    return keys


class Prefixes:
    """`most`: how many the cache can hold when nothing else is in it. `reach`: how many of the latest it probably holds."""

    def __init__(self, most: int) -> None:
        self.most = self.reach = most
        self._sent = 0  # in all
        self._numbers: OrderedDict[bytes, int] = OrderedDict()  # of each prefix: when it was sent last; the latest last

    def __len__(self) -> int:
        return len(self._numbers)

    def known(self, keys: Sequence[bytes]) -> int:
        """How many leading chunks of a prompt it probably holds."""
        return next((at for at, key in enumerate(keys) if key not in self._numbers), len(keys))

    def send(self, keys: Sequence[bytes]) -> list[int]:
        """A prompt goes there. For each leading chunk that it probably holds: how many prefixes were sent after that one."""
        ages = [self._sent - self._numbers[key] for key in keys[: self.known(keys)]]
        for key in keys:
            self._numbers.pop(key, None)
            self._sent += 1
            self._numbers[key] = self._sent
        self._forget()
        return ages

    def learn(self, keys: Sequence[bytes], ages: Sequence[int], cached: int, total: int) -> None:
        """The replica reports that it had `cached` of the `total` ids of a prompt; `ages` are those of `send`. A chunk that was
        missing shortens the estimate to that chunk's age; a hit lengthens it by an eighth."""
        if not keys or not ages or cached < 0 or total <= 0:
            return
        held = min(len(keys) * cached // total, len(keys))
        if held + 1 < len(ages):  # the last of them may be cut by a block's border
            self.reach = max(min(self.reach, ages[held]), 1)
            self._forget()
        else:
            self.reach = min(self.reach + self.reach // 8 + 1, self.most)

    def _forget(self) -> None:
        while len(self._numbers) > self.reach:
            self._numbers.popitem(last=False)
