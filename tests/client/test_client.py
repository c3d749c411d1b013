"""A coordinator's model is asked like an `LLM` of one's own, and says the same to the bit: through replicas that leave, a
coordinator that is started again, and connections that are lost."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from brigade import LLM, ChatPrompt, SamplingParams
from brigade.client import AsyncClient, Client, Operator
from brigade.client import client as client_file
from brigade.coordinator.loop import ANY_PORT
from brigade.coordinator.messages import Status, encode
from brigade.engine.outputs import RequestOutput
from brigade.errors import ConfigError, EngineStopped, RequestError
from brigade.replica.replica import Replica
from tests.api.small_model import ROOM
from tests.client.here import Here
from tests.engine.going_on import Asked, requests

LONG = SamplingParams(max_tokens=200, temperature=1.0, seed=3, ignore_eos=True)


def plain(outputs: list[RequestOutput]) -> list:
    """All but the times, the way through the scheduler, and the seeds that nobody asked for."""
    found = []
    for one in outputs:
        samples = [(s.index, s.text, s.token_ids, s.logprobs, s.finish_reason, s.stop_reason, s.seed, s.error) for s in one.samples]
        found.append((one.request_id, one.prompt, one.prompt_token_ids, one.prompt_logprobs, samples))
    return found


@pytest.fixture(scope="module")
def asked(llm: LLM) -> list[Asked]:
    """Of every kind, half of them with something that stops them."""
    found = requests(60, seed=9)
    said = llm.generate([one.prompt for one in found], [one.params for one in found])
    return requests(60, seed=9, known=[SimpleNamespace(sample=output.samples[0]) for output in said])


@pytest.fixture(scope="module")
def whole(llm: LLM, asked: list[Asked]) -> list:
    return plain(llm.generate([one.prompt for one in asked], [one.params for one in asked]))


@pytest.fixture(scope="module")
def lengthy(asked: list[Asked]) -> list[Asked]:
    """The same, which go on for so long that faults find them at work."""
    more = {"ignore_eos": True, "stop": (), "stop_token_ids": (), "include_stop": False}
    return [Asked(one.prompt, replace(one.params, max_tokens=60, **more)) for one in asked]


@pytest.fixture(scope="module")
def long_whole(llm: LLM, lengthy: list[Asked]) -> list:
    return plain(llm.generate([one.prompt for one in lengthy], [one.params for one in lengthy]))


def generate(client: Client, asked: list[Asked]) -> list:
    return plain(client.generate([one.prompt for one in asked], [one.params for one in asked]))


# What it says.


def test_requests_of_every_kind_say_what_the_model_says(here: Here, pair, asked, whole) -> None:
    here.replica(pair[0], "one")
    here.replica(pair[1], "two")
    with here.client() as client:
        assert generate(client, asked) == whole


def test_streams_bring_the_same_deltas(here: Here, llm: LLM, pair, asked) -> None:
    here.replica(pair[0], "one")
    prompts, params = [one.prompt for one in asked[:20]], [one.params for one in asked[:20]]
    with here.client() as client:
        streams = [list(one.stream(prompts, params)) for one in (llm, client)]
    keys = ("request_id", "index")
    for mine, theirs in zip(
        *(sorted(found, key=lambda d: tuple(getattr(d, key) for key in keys)) for found in streams), strict=True
    ):
        for name in (*keys, "text", "logprobs", "finish_reason", "error", "stop_reason", "prompt_logprobs"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert list(mine.token_ids) == list(theirs.token_ids) and (mine.metrics is None) == (theirs.metrics is None)


def test_a_chat_prompt_gets_no_second_first_token(here: Here, llm: LLM, pair) -> None:
    here.replica(pair[0], "one")
    prompt, params = ChatPrompt("def f("), SamplingParams(max_tokens=3, temperature=0.0, seed=1)
    with here.client() as client:
        assert plain(client.generate(prompt, params)) == plain(llm.generate(prompt, params))


def test_max_tokens_may_be_left_to_the_model(here: Here, llm: LLM, pair) -> None:
    here.replica(pair[0], "one")
    prompt, params = [5] * 480, SamplingParams(max_tokens=None, temperature=0.0, seed=1, ignore_eos=True)
    with here.client() as client:
        (found,) = client.generate([prompt], params)
    assert plain([found]) == plain(llm.generate([prompt], params)) and len(found.token_ids) == 32


def test_a_mapping_names_some_parameters_and_the_model_the_others(here: Here, llm: LLM, pair) -> None:
    here.replica(pair[0], "one")
    with here.client() as client:
        assert plain(client.generate("import ", {"max_tokens": 3, "seed": 1})) == plain(
            llm.generate("import ", {"max_tokens": 3, "seed": 1})
        )
        with pytest.raises(RequestError, match='top_k is "many"'):
            client.generate("import ", {"top_k": "many"})
        with pytest.raises(RequestError, match="unknown sampling parameter"):
            client.generate("import ", {"topk": 3})


def test_an_open_seed_is_drawn_and_told_and_gives_the_same_again(here: Here, llm: LLM, pair) -> None:
    here.replica(pair[0], "one")
    params = SamplingParams(max_tokens=8, temperature=1.0)
    with here.client() as client:
        (found,) = client.generate("import ", params)
        (other,) = client.generate("import ", params)
    assert found.samples[0].seed != other.samples[0].seed
    assert llm.generate("import ", replace(params, seed=found.samples[0].seed))[0].token_ids == found.token_ids


def test_tasks_ask_as_threads_do(here: Here, pair, asked, whole) -> None:
    here.replica(pair[0], "one")

    async def main() -> list[RequestOutput]:
        client = AsyncClient(here.ports[0], "small")
        found = await asyncio.gather(*(client.generate(one.prompt, one.params) for one in asked[:20]))
        streamed = [delta async for delta in client.stream(asked[0].prompt, asked[0].params)]
        client.close()
        assert [i for delta in streamed if delta.index == 0 for i in delta.token_ids] == found[0].token_ids
        return [replace(output, request_id=str(number)) for number, output in enumerate(found)]

    assert plain(asyncio.run(main())) == whole[:20]


def test_many_threads_and_clients_at_once(here: Here, pair, asked, whole) -> None:
    here.replica(pair[0], "one")
    found: dict[int, list] = {}
    clients = [here.client() for _ in range(3)]

    def ask(place: int) -> None:
        found[place] = [one[1:] for one in generate(clients[place % 3], asked[place::6])]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in clients:
        client.close()
    assert [found[place] for place in range(6)] == [[one[1:] for one in whole[place::6]] for place in range(6)]


# What is refused.


def test_what_can_never_be_served_is_told_and_harms_nobody(here: Here, pair, asked, whole) -> None:
    """The replica finds it: only there is the model."""
    here.replica(pair[0], "one")
    with here.client() as client:
        bad = client.stream([[9999]], SamplingParams(max_tokens=2))
        good = generate(client, asked[:10])
        list(bad)
        assert bad.outputs[0].finish_reason == "error"
        assert "token id 9999 is outside the vocabulary of 4096" in (bad.outputs[0].error or "")
        assert good == whole[:10]


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([1.5], None, "a prompt is a text, a ChatPrompt, or a list"),
        ("a", 3, "params is a int"),
        ("a", {"extra": {"x": object()}}, "unknown sampling parameter 'x'"),
        ("\ud800", None, "cannot be written down"),
    ],
)
def test_what_cannot_be_said_is_refused_here(here: Here, prompt, params, words: str) -> None:
    with here.client() as client, pytest.raises(RequestError, match=words):
        client.generate([prompt], params)


def test_a_request_that_is_too_large_to_be_sent_is_refused_by_its_prompt(here: Here, pair, monkeypatch) -> None:
    monkeypatch.setattr(client_file, "MAX_MESSAGE", 2000)
    with here.client() as client, pytest.raises(RequestError, match="1000 are allowed: shorten the prompt") as error:
        client.generate(["a" * 1000])
    assert error.value.param == "prompt"


def test_a_full_coordinator_refuses_at_once(pair) -> None:
    here = Here(max_requests=2)
    try:
        with here.client() as client, here.client() as other:
            waiting = client.stream(["a", "b", "c"], LONG)  # of which one waits here
            until(lambda: here.loop.machine.counts["accepted"] == 2)
            with pytest.raises(RequestError, match="2 requests are open; max_requests takes no more"):
                other.generate("c", LONG)
            waiting.close()
            here.replica(pair[0], "one")
            assert client.generate("c", SamplingParams(max_tokens=2, temperature=0.0))[0].finish_reason == "length"
    finally:
        here.close()


@pytest.fixture
def narrow() -> Iterator[Here]:
    """A coordinator that takes three requests of one client."""
    made = Here(max_requests_of_client=3)
    yield made
    made.close()


def test_more_than_the_coordinator_takes_of_one_client_are_served_in_turns(narrow: Here, pair, asked, whole) -> None:
    """By `generate`, by `stream`, and by two threads that share the client; without the bound they are refused in words."""
    narrow.replica(pair[0], "one")
    prompts, params = [one.prompt for one in asked[:30]], [one.params for one in asked[:30]]
    steps: list[tuple[int, int]] = []
    found: list = []
    with narrow.client() as client:
        other = threading.Thread(target=lambda: found.append(generate(client, asked[30:])))
        other.start()
        assert plain(client.generate(prompts, params, lambda *step: steps.append(step))) == whole[:30]
        stream = client.stream(prompts, params)
        assert list(stream) and plain(stream.outputs) == whole[:30]
        other.join(60)
    assert [one[1:] for one in found[0]] == [one[1:] for one in whole[30:]]
    assert steps == [(done, 30) for done in range(1, 31)]
    assert narrow.loop.machine.counts["refused"] == 0


def test_many_tasks_ask_more_than_the_coordinator_takes_of_one_client(narrow: Here, pair, asked, whole) -> None:
    narrow.replica(pair[0], "one")

    async def main() -> list[RequestOutput]:
        client = AsyncClient(narrow.ports[0], "small")
        found = await asyncio.gather(*(client.generate(one.prompt, one.params) for one in asked[:20]))
        client.close()
        return [replace(output, request_id=str(number)) for number, output in enumerate(found)]

    assert plain(asyncio.run(main())) == whole[:20] and narrow.loop.machine.counts["refused"] == 0


def test_who_gives_up_frees_the_room_that_others_wait_for(narrow: Here, pair) -> None:
    counts = narrow.loop.machine.counts
    with narrow.client() as client:
        stream = client.stream(["a"] * 100, LONG)
        until(lambda: counts["accepted"] == 3)
        stream.close()
        narrow.replica(pair[0], "one")
        outputs = client.generate(["b"] * 5, SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))
    assert [one.finish_reason for one in outputs] == ["length"] * 5
    assert counts["accepted"] == 8, "of those that waited when they were given up none was asked"


def test_a_port_that_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="port 99999 is above 65535"):
        Client("tcp://127.0.0.1:99999")


def test_without_a_coordinator_it_says_so_in_time() -> None:
    with pytest.raises(ConfigError, match="no coordinator answers at tcp://127.0.0.1:9"):
        Client("tcp://127.0.0.1:9", connect_timeout=0.3)
    with pytest.raises(ConfigError, match="cannot connect to nowhere"):
        Client("nowhere", "small")


def test_the_model_is_found_where_there_is_one(here: Here, pair) -> None:
    with pytest.raises(ConfigError, match="has no replica yet; start one with `brigade replica`, or give model"):
        Client(here.ports[0])
    here.replica(pair[0], "one")
    until(lambda: bool(here.loop.machine._members))
    with Client(here.ports[0]) as client:
        assert client.model == "small" and client.has_tokenizer
    here.replica(pair[1], "two", model="another")
    until(lambda: len(here.loop.machine._members) == 2)
    with pytest.raises(ConfigError, match="serves another, small; give one of them as model"):
        Client(here.ports[0])


@pytest.mark.parametrize("patience", [0.5, float("nan"), -1.0])
def test_an_impatience_that_no_sign_of_life_could_meet_is_refused(patience: float) -> None:
    with pytest.raises(ConfigError, match="patience is"):
        Client("tcp://127.0.0.1:9", "small", patience=patience)


# What goes wrong on the way.


def until(done, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def test_replicas_that_leave_one_after_the_other_change_nothing(here: Here, pair, lengthy, long_whole) -> None:
    found: list = []
    first = here.replica(pair[0], "one")
    with here.client() as client, here.client() as looking:
        thread = threading.Thread(target=lambda: found.append(generate(client, lengthy)))
        thread.start()
        for turn in range(4):
            said = here.loop.machine.counts["tokens"]
            until(lambda said=said: here.loop.machine.counts["tokens"] > said + 50)
            second = here.replica(pair[(turn + 1) % 2], f"other {turn}")
            until(lambda: len(looking.status().replicas) == 2)
            assert thread.is_alive(), "the fault came too late"
            here.leave(first)
            first = second
        thread.join(60)
    assert found == [long_whole]


def test_a_replica_that_waits_for_its_coordinator_says_once_that_it_works(here: Here, pair, monkeypatch) -> None:
    """Its registrations wait in its connection, and come all at once."""
    monkeypatch.setattr("brigade.replica.replica.AGAIN", 0.05)
    here.end()
    here.replica(pair[0], "early")
    time.sleep(1)
    here.begin()
    with here.client() as client:
        assert client.generate(["x"], {"max_tokens": 3})[0].samples[0].finish_reason == "length"
    time.sleep(0.5)
    assert sum("replica early: " in line and here.ports[1] in line and "nobody" not in line for line in here.said) == 1, here.said


def test_a_replica_that_hangs_ends_and_its_requests_go_on(folder: Path, llm: LLM, pair) -> None:
    """It gives signs of life for ever, and would take the next requests too."""
    here, released = Here(hang_timeout=1.0), threading.Event()
    try:
        with LLM(folder, **ROOM) as hanging:
            step, steps = hanging.engine.step, itertools.count()
            hanging.engine.step = lambda: step() if next(steps) < 5 else released.wait(60) and []
            replica = here.replica(hanging, "hangs")
            with here.client() as client:
                stream = client.stream("import ", LONG)
                next(stream)
                here.replica(pair[0], "other")
                assert list(stream) and plain(stream.outputs) == plain(llm.generate("import ", LONG))
            here.replicas[replica].join(10)
            assert "it finished no layer for 1 s, and was given up" in str(here.errors["hangs"])
            assert [one.name for one in here.loop.machine.status().replicas] == ["other"]
            released.set()
    finally:
        released.set()
        here.close()


@pytest.mark.parametrize("journal", [True, False])
def test_a_coordinator_that_is_killed_and_started_again_changes_nothing(tmp_path, pair, lengthy, long_whole, journal: bool) -> None:
    here = Here(tmp_path if journal else None)
    found: list = []
    try:
        here.replica(pair[0], "one")
        here.replica(pair[1], "two")
        with here.client() as client:
            thread = threading.Thread(target=lambda: found.append(generate(client, lengthy)))
            thread.start()
            for _ in range(3):
                until(lambda: here.loop.machine.counts["tokens"] > 50)
                assert thread.is_alive(), "the fault came too late"
                here.end()
                here.begin()
            thread.join(60)
            assert found == [long_whole]
            until(lambda: client.status().running == 0)
    finally:
        here.close()


def test_who_leaves_a_stream_frees_its_place_at_once(here: Here, pair) -> None:
    here.replica(pair[0], "one")
    with here.client() as client:
        stream = client.stream(["a"] * 3, LONG)
        next(stream)
        stream.close()
        until(lambda: client.status().running + client.status().waiting == 0, 5)
        assert pair[0].thread.wait_idle(5)
        assert pair[0].engine.pool.num_free == pair[0].engine.pool.num_blocks


def test_a_client_that_vanishes_has_its_requests_aborted(here: Here, pair) -> None:
    here.replica(pair[0], "one")
    client = here.client()
    stream = client.stream("a", LONG)
    next(stream)
    client.close()
    until(lambda: not here.loop.machine._clients)
    assert pair[0].thread.wait_idle(5)


def test_a_closed_client_and_one_whose_coordinator_is_gone_tell_everybody(here: Here, pair) -> None:
    client, patient = here.client(), here.client(patience=4.0)
    waiting = client.stream("a", LONG)
    client.close()
    with pytest.raises(EngineStopped, match="the client was closed"):
        next(waiting)
    with pytest.raises(EngineStopped, match="the client was closed"):
        client.generate("a", LONG)
    waiting = patient.stream("a", LONG)
    here.end()
    with pytest.raises(EngineStopped, match="has said nothing for 4 s"):
        next(waiting)
    here.begin()
    here.replica(pair[0], "one")
    assert patient.generate("a", SamplingParams(max_tokens=1, temperature=0.0))[0].finish_reason == "length"
    patient.close()


def test_an_engine_that_fails_takes_its_replica_along_and_the_requests_go_on(here: Here, folder, pair, lengthy, long_whole) -> None:
    from tests.api.small_model import ROOM

    with LLM(folder, **ROOM) as doomed:
        here.replica(doomed, "doomed")
        found: list = []
        with here.client() as client:
            thread = threading.Thread(target=lambda: found.append(generate(client, lengthy[:20])))
            thread.start()
            until(lambda: here.loop.machine.counts["tokens"] > 5)
            doomed.engine.controller.runner.send = None  # whatever it is
            until(lambda: "doomed" in here.errors)
            assert isinstance(here.errors["doomed"], EngineStopped) and "TypeError" in str(here.errors["doomed"])
            here.replica(pair[0], "one")
            thread.join(60)
    assert found == [long_whole[:20]] and here.loop.machine.counts["replicas lost"] == 1


# Operators.


def test_an_operator_pauses_resumes_drains_and_stops(here: Here, pair) -> None:
    replica = here.replica(pair[0], "one")
    operator = Operator(here.ports[2])
    with here.client() as client:
        assert operator.control("pause").state == "paused"
        stream = client.stream("a", SamplingParams(max_tokens=3, temperature=0.0))
        until(lambda: client.status().waiting == 1)
        with pytest.raises(ConfigError, match="the coordinator is paused; it cannot pause"):
            operator.control("pause")
        assert operator.control("resume").state == "running"
        assert len(list(stream)) == 3 and operator.wait_empty(5)
        operator.control("drain")
        with pytest.raises(RequestError, match="is draining and takes no new request"):
            client.generate("a", LONG)
        operator.control("stop")
        here.thread.join(10)
        here.replicas.pop(replica).join(10)
        assert not here.thread.is_alive() and not here.errors
    operator.close()


def test_an_answer_that_comes_late_is_none_to_the_next_question() -> None:
    context, found = zmq.Context(), []
    slow = context.socket(zmq.ROUTER)
    operator = Operator(f"tcp://127.0.0.1:{slow.bind_to_random_port('tcp://127.0.0.1')}", timeout=0.5)

    def answer(state: str) -> None:
        address, _ = slow.recv_multipart()
        slow.send_multipart([address, encode(Status(state, 0, 0, 0, [], {}))])

    try:
        with pytest.raises(ConfigError, match="no coordinator answers"):
            operator.status()
        answer("late")
        thread = threading.Thread(target=lambda: found.append(operator.status()))
        thread.start()
        answer("right")
        thread.join(10)
        assert [one.state for one in found] == ["right"]
    finally:
        operator.close()
        context.destroy(linger=0)


def test_who_speaks_at_anothers_address_is_told_where_to_speak(here: Here, pair) -> None:
    lost = Replica(pair[0], here.ports[0], name="lost", say=here.said.append)
    with pytest.raises(ConfigError, match=f"this is the address for clients; replicas speak at {here.ports[1]}"):
        lost.run()
    with pytest.raises(EngineStopped, match=f"this is the address for replicas; clients speak at {here.ports[0]}"):
        Client(here.ports[1]).close()


def test_a_clients_address_is_no_operators(here: Here) -> None:
    operator = Operator(here.ports[0])
    assert operator.status().state == "running"
    operator.timeout = 0.5
    with pytest.raises(ConfigError, match=f"this is the address for clients; operators speak at {here.ports[2]}"):
        operator.control("stop")
    operator.close()
    assert here.loop.machine.state.value == "running"
    assert here.ports[0] != ANY_PORT
