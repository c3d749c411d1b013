"""The memory that the ranks of a host share: what of it each of them touches."""

from __future__ import annotations

from brigade.mesh import Mesh
from brigade.parallel.board import Board
from brigade.parallel.memory import LINE, MESSAGE_BYTES, SLOT_BYTES, Places

BOARD, RING = Board.bytes(4), 2 * LINE + MESSAGE_BYTES


def test_a_rank_touches_the_board_its_groups_slots_and_the_rings_that_it_writes_or_reads() -> None:
    places = Places(Mesh(2, 2, ((0, 2), (2, 4))), range(4), rows_bytes=3 << 20, board_bytes=BOARD)
    slots, rows = LINE + 2 * 2 * SLOT_BYTES, 2 * LINE + (4 << 20)
    assert places.touched(0) == BOARD + slots + 6 * RING + rows, "orders to three ranks, their replies, rows of the stage before"
    assert [places.touched(rank) for rank in (1, 2, 3)] == [BOARD + slots + 2 * RING + rows] * 3
    assert places.touched(0) <= places.size


def test_what_lies_on_other_hosts_is_not_counted() -> None:
    """Two hosts with a stage each: rows go through the process group, and the leader speaks to one rank here."""
    places = Places(Mesh(2, 2, ((0, 2), (2, 4))), [0, 1], rows_bytes=3 << 20, board_bytes=BOARD)
    assert places.touched(0) == places.touched(1) == BOARD + LINE + 2 * 2 * SLOT_BYTES + 2 * RING


def test_stages_of_one_rank_have_no_slots() -> None:
    places = Places(Mesh(1, 2, ((0, 2), (2, 4))), range(2), rows_bytes=1 << 20, board_bytes=BOARD)
    assert places.touched(0) == places.touched(1) == BOARD + 3 * RING, "the ring of rows is as large as one of orders here"
