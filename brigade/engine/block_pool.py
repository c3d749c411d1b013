"""Which KV block belongs to whom, and which full blocks can be used again.

A block is blank, held (by one or more requests), or idle: a full block of known content that nobody holds, kept until room
is needed. Known blocks form a tree by content: a node is found by its parent and its ids, and the ids themselves are
compared behind the hash. Whoever holds a node holds its ancestors, and lets go of the deepest first, so the idle list is
ordered least recently used first *and* leaves before their parents.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROOT = 0  # the parent of every first block of a request without a salt
_SECRET = os.urandom(32)


def root_of(salt: str | None) -> int:
    """The parent of the first block of requests with this salt, which find nothing that was computed for another. A number below
    every node's; that two salts have the same one is out of reach, also for somebody who looks for such."""
    if salt is None:
        return ROOT
    return -1 - int.from_bytes(hashlib.blake2b(salt.encode(), key=_SECRET, digest_size=16).digest(), "little")


@dataclass(frozen=True, slots=True)
class Node:
    """A full block whose content is known."""

    serial: int
    key: tuple[int, tuple[int, ...]]  # (serial of the parent, ids)
    block: int


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int, prefix_cache: bool = True) -> None:
        self.num_blocks, self.block_size, self.prefix_cache = num_blocks, block_size, prefix_cache
        self._blank = list(range(num_blocks))[::-1]  # the last given back is the first taken: its memory is there and warm
        self._holders = [0] * num_blocks
        self._nodes: dict[tuple[int, tuple[int, ...]], Node] = {}
        self._node_of: list[Node | None] = [None] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._last_serial = ROOT

    @property
    def num_free(self) -> int:
        """Blocks that can be had now, blank or idle."""
        return len(self._blank) + len(self._idle)

    @property
    def num_cached(self) -> int:
        return len(self._nodes)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for new content, or None if there are not that many."""
        if count > self.num_free:
            return None
        taken = []
        for _ in range(count):
            block = self._blank.pop() if self._blank else self._evict()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        node = self._node_of[block]
        assert node is not None
        del self._nodes[node.key]
        self._node_of[block] = None
        return block

    def holders(self, block: int) -> int:
        return self._holders[block]

    def follow(self, found: list[Node], key: Callable[[int], tuple[int, ...]], most: int, root: int = ROOT) -> None:
        """Bring a run of known blocks up to date: drop what was evicted, add what became known, `most` blocks in all. It begins
        below `root`.

        `key(place)` gives the ids of a block. Nobody holds the blocks for being found. Leaves are evicted before their parents,
        so what is gone is at the end of the run, and a look where nothing has changed costs one lookup.
        """
        if not self.prefix_cache:
            return
        while found and self._node_of[found[-1].block] is not found[-1]:
            found.pop()
        while len(found) < most:
            node = self._nodes.get((found[-1].serial if found else root, key(len(found))))
            if node is None:
                return
            found.append(node)

    def num_idle(self, found: Sequence[Node]) -> int:
        """How many blocks of a known run are idle: as many free blocks are lost by holding it. Whoever holds a block holds
        those before it, so the idle ones are at the end."""
        count = 0
        while count < len(found) and self._holders[found[-1 - count].block] == 0:
            count += 1
        return count

    def hold(self, found: Sequence[Node]) -> list[int]:
        """The blocks of a known run, which now have one more holder."""
        for node in found:
            if self._holders[node.block] == 0:
                del self._idle[node.block]
            self._holders[node.block] += 1
        return [node.block for node in found]

    def publish(self, parent: int, ids: Sequence[int], block: int) -> Node:
        """Make a full, computed block known. Where the same content is known already, the caller gets that block instead:
        by the exactness contract it holds the same bits."""
        assert len(ids) == self.block_size and self._holders[block] == 1 and self._node_of[block] is None
        key = (parent, tuple(ids))
        known = self._nodes.get(key)
        if known is not None:
            self.hold([known])
            self.release([block])
            return known
        self._last_serial += 1
        node = Node(self._last_serial, key, block)
        self._nodes[key] = self._node_of[block] = node
        return node

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a request's blocks, the deepest first."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0, f"block {block} released twice"
            if self._holders[block]:
                continue
            if self._node_of[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None

    def check(self, held: Sequence[Sequence[int]]) -> None:
        """Assert that the books are right, given the block lists of everyone alive. For tests and idle moments."""
        counts = [0] * self.num_blocks
        for blocks in held:
            for block in blocks:
                counts[block] += 1
        assert counts == self._holders, "holders do not match the requests alive"
        assert len(set(self._blank)) == len(self._blank)
        free = set(self._blank) | set(self._idle)
        assert len(free) == self.num_free
        assert free == {block for block, count in enumerate(counts) if count == 0}, "a block leaked"
        assert all(self._nodes[node.key] is node for node in self._node_of if node is not None)
        parents = {node.serial: node.block for node in self._nodes.values()}
        order = {block: place for place, block in enumerate(self._idle)}
        for node in self._nodes.values():
            parent = node.key[0]
            if parent <= ROOT:
                continue
            assert parent in parents, "a known block outlived its parent"
            if node.block in order and parents[parent] in order:
                assert order[node.block] < order[parents[parent]], "a parent would be evicted before its child"
