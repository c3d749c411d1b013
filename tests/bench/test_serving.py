"""Loads as users make them: how many requests are under way, when they are sent, and what is said of their times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from xml.etree import ElementTree

import pytest

from brigade.bench.serving import Load, Served, Timing, as_json, drive, table
from brigade.bench.serving_picture import draw
from brigade.bench.workload import Simulated
from brigade.errors import ConfigError

REQUESTS = [Simulated(number, [1], 3) for number in range(12)]


class Server:
    """Says its tokens after a while, and knows how many asked at once."""

    def __init__(self, wait: float = 0.002) -> None:
        self.wait, self.now, self.most, self.order = wait, 0, 0, list[int]()

    async def __call__(self, request: Simulated) -> AsyncIterator[int]:
        self.order.append(request.number)
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(request.max_tokens):
            await asyncio.sleep(self.wait)
            if request.number == 5:
                self.now -= 1
                raise ValueError("no fives")
            yield 1
        self.now -= 1


@pytest.mark.parametrize("clients", [1, 3, 20])
def test_a_closed_loop_has_so_many_under_way_and_asks_for_each_once(clients: int) -> None:
    server = Server()
    served = asyncio.run(drive(server, REQUESTS, Load(clients=clients)))
    assert server.most == min(clients, len(REQUESTS)) and sorted(server.order) == list(range(12))
    assert len(served.good) == 11 and [one.error for one in served.timings if one.error] == ["ValueError: no fives"]
    assert all(len(one.tokens) == 3 and 0 < one.first <= one.end for one in served.good)


def test_a_rate_does_not_wait_for_answers() -> None:
    server = Server(wait=0.05)
    asyncio.run(drive(server, REQUESTS, Load(rate=2000.0, arrivals="fixed")))
    assert server.most == 12


def test_the_moments_of_a_rate() -> None:
    assert Load(rate=4.0, arrivals="fixed").moments(4) == [0.0, 0.25, 0.5, 0.75]
    drawn = Load(rate=10.0, seed=3).moments(4000)
    assert drawn == Load(rate=10.0, seed=3).moments(4000) != Load(rate=10.0, seed=4).moments(4000)
    assert drawn[0] == 0 and drawn == sorted(drawn) and 370 < drawn[-1] < 430


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, "give one of them"), ({"clients": 1, "rate": 1.0}, "give one of them"), ({"clients": 0}, "clients is 0"),
     ({"rate": 0.0}, "rate is 0.0"), ({"rate": float("nan")}, "rate is nan")],
)  # fmt: skip
def test_a_load_that_is_none_is_refused(given: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Load(**given)


FAST, SLOW = Timing([0.1, 0.11, 0.12], 0.12), Timing([0.5, 0.7], 0.7)
ONE, NONE, FAILED = Timing([0.1], 0.1), Timing([], 0.2), Timing([0.1], 0.3, "it failed")


def served(*timings: Timing) -> Served:
    return Served(Load(clients=2), timings, 2.0)


def test_what_is_said_of_times() -> None:
    found = served(FAST, SLOW, ONE, NONE, FAILED)
    assert found.good == [FAST, SLOW, ONE] and found.tokens == 7
    assert found.values("first token") == [0.1, 0.5, 0.1] and found.values("whole request") == [0.12, 0.7, 0.1]
    assert found.values("inter-token") == pytest.approx([0.01, 0.01, 0.2])
    assert found.percentiles("first token")["p50"] == 0.1 and served(NONE).percentiles("inter-token") == {}


@pytest.mark.parametrize(
    ("first", "between", "rate"), [(None, None, None), (0.2, None, 1.0), (None, 0.1, 1.0), (1.0, 1.0, 1.5), (0.01, 1.0, 0.0)]
)
def test_goodput_counts_requests_that_were_as_fast_as_they_should_be(first, between, rate) -> None:
    assert served(FAST, SLOW, ONE, NONE, FAILED).goodput(first, between) == rate


def test_the_table_and_the_json_say_the_same() -> None:
    found = served(FAST, SLOW, FAILED)
    head, line = table([found], 0.2, None)
    facts = as_json(found, 0.2, None)
    assert len(head) == len(line) and dict(zip(head, line, strict=True))["goodput/s"] == f"{facts['goodput']:.2f}" == "0.50"
    assert (
        facts["tokens_per_second"] == 3.0 and facts["errors"] == ["it failed"] and facts["first_token"]["p50"] == pytest.approx(0.3)
    )
    assert "goodput/s" not in table([found], None, None)[0] and table([served(NONE)], None, None)[1][3] == "-"


def test_the_picture_is_whole_with_few_values_and_with_none() -> None:
    for found in ([served(FAST, SLOW)], [served(ONE)], [served(NONE)], [served(FAST), served(SLOW), served(NONE)]):
        ElementTree.fromstring(draw(found, "a <title>"))
    assert draw([served(FAST, SLOW)], "t").count("<polyline") > draw([served(NONE)], "t").count("<polyline")
