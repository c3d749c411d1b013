"""Blocks are blank, held or idle; known content is found again; nothing leaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.engine.block_pool import ROOT, BlockPool


def fill(pool: BlockPool, ids: list[int]) -> list[int]:
    """Take blocks for ids, compute them, and make the full ones known."""
    nodes = pool.find(ids, len(ids) // pool.block_size)
    blocks, tip = [node.block for node in nodes], nodes[-1].serial if nodes else ROOT
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
    assert [node.block for node in pool.find([1, 2, 3, 4, 7], 2)] == first[:2]


def test_the_same_ids_behind_another_parent_are_other_content() -> None:
    pool = BlockPool(8, 2)
    held = fill(pool, [1, 2, 5, 6])
    assert len(pool.find([9, 9, 5, 6], 2)) == 0
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
    assert len(pool.find([1, 1, 2, 2], 2)) == 1


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
                nodes = pool.find(ids, len(ids) // 2)
                taken = pool.take(pool.blocks_for(len(ids)) - len(nodes))
                pool.release([node.block for node in nodes])
                if taken is not None:
                    pool.release(taken)
                    if pool.blocks_for(len(ids)) <= pool.num_free:
                        held.append(fill(pool, ids))
        pool.check(held)
    for blocks in held:
        pool.release(blocks)
    assert pool.num_free == pool.num_blocks
