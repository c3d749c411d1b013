"""Blocks are blank, held or idle; known content is found again; nothing leaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.engine.block_pool import ROOT, BlockPool, Node


def find(pool: BlockPool, ids: list[int], found: list[Node] | None = None) -> list[Node]:
    """The known blocks at the head of `ids`, held by nobody; starting from what an earlier look found."""
    found = [] if found is None else found
    size = pool.block_size
    pool.follow(found, lambda place: tuple(ids[place * size : (place + 1) * size]), len(ids) // size)
    return found


def fill(pool: BlockPool, ids: list[int]) -> list[int]:
    """Take blocks for ids, compute them, and make the full ones known."""
    nodes = find(pool, ids)
    blocks, tip = pool.hold(nodes), nodes[-1].serial if nodes else ROOT
    taken = pool.take(pool.blocks_for(len(ids)) - len(blocks))
    assert taken is not None
    blocks += taken
    for place in range(len(nodes), len(ids) // pool.block_size):
        node = pool.publish(tip, ids[place * pool.block_size : (place + 1) * pool.block_size], blocks[place])
        blocks[place], tip = node.block, node.serial
    return blocks


def test_known_blocks_are_shared_and_survive_their_holder() -> None:
    pool = BlockPool(8, 2)
    first = fill(pool, [1, 2, 3, 4, 5])
    second = fill(pool, [1, 2, 3, 4, 9, 9])
    assert second[:2] == first[:2] and second[2] != first[2]
    pool.check([first, second])
    pool.release(first)
    pool.release(second)
    assert pool.num_free == 8
    assert [node.block for node in find(pool, [1, 2, 3, 4, 7])] == first[:2]


def test_the_same_ids_behind_another_parent_are_other_content() -> None:
    pool = BlockPool(8, 2)
    held = fill(pool, [1, 2, 5, 6])
    assert find(pool, [9, 9, 5, 6]) == []
    pool.check([held])


def test_what_two_computed_at_once_becomes_one_block() -> None:
    pool = BlockPool(4, 2)
    (a,), (b,) = pool.take(1), pool.take(1)
    first, second = pool.publish(ROOT, [1, 2], a), pool.publish(ROOT, [1, 2], b)
    assert first.block == second.block == a
    assert pool.num_free == 3
    pool.check([[a], [a]])


def test_eviction_takes_the_least_recently_used_leaf() -> None:
    pool = BlockPool(4, 2)
    old, new = fill(pool, [1, 1, 2, 2]), fill(pool, [3, 3, 4, 4])
    pool.release(old)
    pool.release(new)
    (taken,) = pool.take(1)
    assert taken == old[1], "the leaf of the older one goes first, its parent stays"
    assert len(find(pool, [1, 1, 2, 2])) == 1


def test_a_look_holds_nothing_and_the_next_goes_on_from_it() -> None:
    pool = BlockPool(4, 2)
    pool.release(fill(pool, [1, 1, 2, 2]))
    found = find(pool, [1, 1, 2, 2, 3, 3])
    pool.check([])
    assert len(found) == 2 == pool.num_idle(found)
    held = fill(pool, [1, 1])
    assert pool.num_idle(found) == 1, "its first block is held by another now"
    others = pool.take(3)
    assert others is not None and len(find(pool, [1, 1, 2, 2, 3, 3], found)) == 1, "the second was evicted"
    pool.release(others)
    pool.release(fill(pool, [1, 1, 2, 2, 3, 3]))
    assert len(find(pool, [1, 1, 2, 2, 3, 3], found)) == 3, "both are known again, and one more"
    pool.check([held])


def test_a_look_where_nothing_changed_costs_one_lookup() -> None:
    pool = BlockPool(64, 2)
    ids = list(range(100))
    pool.release(fill(pool, ids))
    asked: list[int] = []

    def key(place: int) -> tuple[int, ...]:
        asked.append(place)
        return tuple((*ids, -1, -1)[2 * place : 2 * place + 2])

    found: list[Node] = []
    pool.follow(found, key, 51)
    assert len(found) == 50 and len(asked) == 51
    asked.clear()
    pool.follow(found, key, 51)
    assert len(found) == 50 and asked == [50]


def test_more_than_there_is_takes_nothing() -> None:
    pool = BlockPool(3, 2)
    assert pool.take(4) is None
    assert pool.num_free == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_books_are_right_after_anything(data) -> None:
    pool = BlockPool(data.draw(st.integers(4, 12)), 2, data.draw(st.booleans()))
    held: list[list[int]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        if held and data.draw(st.booleans()):
            pool.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        else:
            ids = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=8))
            if pool.blocks_for(len(ids)) <= pool.num_free and not pool.prefix_cache:
                blocks = pool.take(pool.blocks_for(len(ids)))
                assert blocks is not None
                held.append(blocks)
            elif pool.prefix_cache:
                nodes = find(pool, ids)
                known = pool.hold(nodes)
                taken = pool.take(pool.blocks_for(len(ids)) - len(nodes))
                pool.release(known)
                if taken is not None:
                    pool.release(taken)
                    if pool.blocks_for(len(ids)) <= pool.num_free:
                        held.append(fill(pool, ids))
        pool.check(held)
    for blocks in held:
        pool.release(blocks)
    assert pool.num_free == pool.num_blocks
