"""The waiting queue is in order after anything, and short prompts are found behind long ones."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.engine.request import Request
from brigade.engine.sampling import SamplingParams
from brigade.engine.waiting import WaitingQueue

PARAMS = SamplingParams()


def request(priority: int, number: int, index: int = 0, length: int = 1) -> Request:
    return Request(str(number), index, (priority, number), PARAMS, 0, [1] * length, (), 0.0, 16)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_it_is_in_order_after_anything(data) -> None:
    ranks = data.draw(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 20), st.integers(0, 2)), unique=True, max_size=30))
    everyone = [request(*rank, length=data.draw(st.integers(1, 12))) for rank in ranks]
    queue, inside = WaitingQueue(long_above=6), set()
    for one in everyone + data.draw(st.lists(st.sampled_from(everyone), max_size=30) if everyone else st.just([])):
        if one in inside:
            assert queue.remove(one) and not queue.remove(one), "a second removal finds nothing and does no harm"
            inside.remove(one)
        else:
            queue.add(one)
            inside.add(one)
        ordered = sorted(inside, key=lambda request: request.rank)
        assert list(queue) == ordered and len(queue) == len(ordered) and bool(queue) == bool(ordered)
        assert queue.has_short == any(len(request.ids) <= 6 for request in ordered)
        if ordered:
            assert queue.head is ordered[0]
        assert list(islice(queue.first(3), 3)) == ordered[:3]


def test_a_short_prompt_is_found_behind_any_number_of_long_ones() -> None:
    queue = WaitingQueue(long_above=6)
    for number in range(100):
        queue.add(request(0, number, length=7))
    queue.add(request(0, 100, length=6))
    assert [len(request.ids) for request in queue.first(2)] == [7, 7, 6]


def test_first_may_be_walked_while_the_queue_changes() -> None:
    queue = WaitingQueue(long_above=6)
    everyone = [request(0, number) for number in range(5)]
    for one in everyone:
        queue.add(one)
    walked = []
    for one in queue.first(4):
        queue.remove(one)
        queue.add(request(-1, 100 + len(walked)))
        walked.append(one)
    assert walked == everyone[:4]
