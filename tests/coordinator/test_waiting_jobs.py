"""The queue of requests that wait for a replica."""

from __future__ import annotations

from brigade.coordinator.job import Job
from brigade.coordinator.messages import Ask
from brigade.coordinator.waiting_jobs import SLACK, WaitingJobs


def job(client: bytes = b"a", number: int = 1, priority: int = 0) -> Job:
    return Job(client, number, Ask("", "a", priority=priority), None)


def leave(queue: WaitingJobs, jobs: list[Job]) -> None:
    for one in jobs:
        one.move("given up")
        queue.left()


def in_turn(queue: WaitingJobs) -> list[tuple[bytes, int]]:
    """All of them, as they are placed."""
    found = []
    while (one := queue.first()) is not None:
        queue.drop_first()
        queue.left()
        one.move("placed on a replica")
        found.append((one.client, one.number))
    return found


def test_by_priority_then_each_client_in_turn_and_who_comes_back_goes_first() -> None:
    queue = WaitingJobs()
    for client, number, priority in ((b"a", 1, 0), (b"a", 2, 0), (b"a", 3, 0), (b"b", 1, 0), (b"b", 2, -1), (b"c", 1, 1)):
        queue.add(job(client, number, priority))
    queue.add(job(b"d", 1), returned=True)
    assert in_turn(queue) == [(b"b", 2), (b"d", 1), (b"a", 1), (b"b", 1), (b"a", 2), (b"a", 3), (b"c", 1)]


def test_a_request_is_found_also_where_many_have_left_before_it() -> None:
    """So many that the queue is cleaned up when it comes."""
    for looks in (True, False):
        queue, gone = WaitingJobs(), [job(number=number) for number in range(SLACK + 2)]
        for one in gone:
            queue.add(one)
        leave(queue, gone)
        if looks:
            assert queue.first() is None
        last = job(b"b", 7)
        queue.add(last)
        assert queue.first() is last and list(queue.everyone()) == [last] and queue.count == 1


def test_who_adds_and_leaves_without_end_fills_no_memory() -> None:
    queue, stays = WaitingJobs(), job(b"b", 1, priority=-1)
    queue.add(stays)
    for number in range(20 * SLACK):
        one = job(number=number)
        queue.add(one)
        leave(queue, [one])
    assert sum(len(waiting) for level in queue._levels.values() for waiting in level.queues.values()) <= SLACK + 4
    assert queue.first() is stays
