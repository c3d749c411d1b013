"""What a client says, and what it makes of the answers: no socket, no clock."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from brigade.client.asked import Asked
from brigade.client.conversation import AGAIN, BEAT, Conversation
from brigade.coordinator.messages import (
    PROTOCOL,
    Abort,
    Accepted,
    Acknowledge,
    Alive,
    Ask,
    Begun,
    Heard,
    Hello,
    Look,
    Piece,
    Refused,
    Rest,
    Said,
    Status,
    Stranger,
    Submit,
    Welcome,
    encode,
)
from brigade.engine.outputs import Delta, RequestOutput
from brigade.errors import CoordinatorSilent, EngineStopped, ModelReplaced, RequestError


class Told(list):
    """A reader that keeps what it hears."""

    def __call__(self, said: Any) -> None:
        self.append(said)


def welcome(known: dict[int, int] | None = None, most_open: int = 100) -> Welcome:
    return Welcome(PROTOCOL, known or {}, most_open)


def talk(known: bool = True, most_open: int = 100, first_patience: float | None = None) -> Conversation:
    made = Conversation("tcp://there", 60.0, 0.0, first_patience)
    assert [type(one) for one in made.take()] == [Hello]
    if known:
        made.hear(welcome(most_open=most_open), 0.0)
    return made


def asked(number: int = 1, reader: Any = None, deltas: bool = True, identity: str = "", **ask) -> Asked:
    made = Ask("m", ask.pop("prompt", "a"), **ask)
    return Asked(number, made, "a", Told() if reader is None else reader, deltas, False, identity)


def test_a_request_from_its_submission_to_its_end() -> None:
    made, told = talk(), Told()
    made.submit(asked(7, told))
    (submit,) = made.take()
    assert isinstance(submit, Submit) and submit.number == 7 and submit.heard == []
    made.hear(Accepted(7, 99), 0.0)
    made.hear(Begun(7, "identity"), 0.0)
    made.hear(Said([Piece(7, 0, 0, [1, 2], "ab"), Piece(7, 0, 2, [3], "c", "length")]), 0.0)
    deltas, output = told[:2], told[2]
    assert [(one.text, list(one.token_ids), one.finish_reason) for one in deltas] == [("ab", [1, 2], None), ("c", [3], "length")]
    assert isinstance(output, RequestOutput) and output.text == "abc" and output.samples[0].seed == 99
    assert made.take() == [Acknowledge(7)] and len(told) == 3


def test_an_end_that_the_request_is_not_to_blame_for_keeps_its_kind() -> None:
    made, told = talk(), Told()
    made.submit(asked(1, told))
    made.take()
    made.hear(Said([Piece(1, 0, 0, [1], "a"), Piece(1, 0, 1, [], "", "error", "another model", kind="replaced")]), 0.0)
    assert [one.error_kind for one in told[:2]] == [None, "replaced"]
    assert told[2].samples[0].error_kind == "replaced"


def test_who_wants_no_deltas_hears_the_output_alone() -> None:
    made, told = talk(), Told()
    made.submit(asked(1, told, deltas=False))
    made.take()
    made.hear(Said([Piece(1, 0, 0, [1], "a"), Piece(1, 0, 1, [2], "b", "stop")]), 0.0)
    assert [type(one) for one in told] == [RequestOutput]


def test_what_is_asked_before_the_welcome_is_said_after_it() -> None:
    made = talk(known=False)
    made.submit(asked())
    assert made.take() == []
    made.hear(welcome(), 0.0)
    assert [type(one) for one in made.take()] == [Submit]


def test_a_stranger_says_hello_and_names_what_it_has() -> None:
    made = talk()
    made.submit(asked(1, n=2))
    made.take()
    made.hear(Accepted(1, 5), 0.0)
    made.hear(Begun(1, "identity"), 0.0)
    made.hear(Said([Piece(1, 1, 0, [4, 5], "xyz"), Piece(1, 0, 0, [], "", "error", "no")]), 0.0)
    made.take()
    made.hear(Stranger(), 1.0)
    (hello,) = made.take()
    assert hello.key == made.key and [(one.number, one.heard, one.began_as) for one in hello.open] == [
        (1, [Heard([], 0, True), Heard([4, 5], 3, False)], "identity")
    ]
    made.hear(Stranger(), 1.0)
    assert made.take() == [], "the answer to an older word: the hello is on its way"
    made.hear(welcome({1: 5}), 1.0)
    assert made.take() == [], "it goes on"


def test_what_the_coordinator_has_forgotten_goes_on_from_here() -> None:
    made = talk()
    made.submit(asked(1, seed=None))
    made.submit(asked(2))
    made.take()
    made.hear(Accepted(1, 5), 0.0)
    made.hear(Begun(1, "identity"), 0.0)
    made.hear(Said([Piece(1, 0, 0, [4], "x")]), 0.0)
    made.hear(Stranger(), 3.0)
    made.take()
    made.hear(welcome(), 3.0)
    one, two = made.take()
    assert (one.number, one.ask.seed, one.heard, one.began_as) == (1, 5, [Heard([4], 1, False)], "identity")
    assert (two.number, two.ask.seed, two.heard) == (2, None, []), "it was never accepted, and begins"


def test_a_piece_that_is_not_the_next_one_is_not_delivered() -> None:
    for piece in (Piece(1, 0, 1, [3]), Piece(1, 3, 0, [3]), Piece(1, 0, 0, [3], rest=b"\xc1")):
        made, told = talk(), Told()
        made.submit(asked(1, told))
        made.take()
        made.hear(Said([piece]), 0.0)
        assert told == [] and made.is_broken and made.take() == []
        made.connect_again(0.0)
        (hello,) = made.take()
        assert isinstance(hello, Hello) and [one.heard for one in hello.open] == [[Heard()]] and not made.is_broken


def test_of_an_aborted_request_nothing_is_heard() -> None:
    made, told = talk(), Told()
    made.submit(asked(1, told))
    assert [type(one) for one in made.take()] == [Submit]
    made.abort(1)
    assert made.take() == [Abort(1)]
    made.hear(Said([Piece(1, 0, 0, [1])]), 0.0)
    made.abort(1)
    assert told == [] and made.take() == []
    made.hear(Said([Piece(1, 0, 1, [1], "", "length")]), 0.0)
    assert made.take() == [Abort(1)], "else nobody would ever say that the end was heard"


def test_what_was_aborted_while_a_hello_that_named_it_was_under_way_is_aborted_then() -> None:
    made = talk()
    made.submit(asked(1))
    made.take()
    made.hear(Stranger(), 5.0)
    made.abort(1)
    made.take()
    made.hear(welcome({1: 7}), 5.0)
    assert made.take() == [Abort(1)]


def test_a_reader_that_raises_aborts_its_own_request_alone() -> None:
    def raises(said: Any) -> None:
        raise RuntimeError("its loop is gone")

    made, told = talk(), Told()
    made.submit(asked(1, raises))
    made.submit(asked(2, told))
    made.take()
    made.hear(Said([Piece(1, 0, 0, [1]), Piece(2, 0, 0, [1])]), 0.0)
    assert made.take() == [Abort(1)] and isinstance(told[0], Delta)


def test_a_refusal_is_its_requests_own() -> None:
    made, told, other = talk(), Told(), Told()
    made.submit(asked(1, told))
    made.submit(asked(2, other))
    made.take()
    made.hear(Refused(1, "too many"), 0.0)
    made.hear(Refused(9, "nobody's"), 0.0)
    assert isinstance(told[0], RequestError) and str(told[0]) == "too many" and other == [] and made.refused is None


def test_a_client_that_is_refused_itself_says_why() -> None:
    made = talk(known=False)
    made.hear(Refused(None, "1000 clients are here"), 0.0)
    assert made.refused == "1000 clients are here"


def test_it_gives_signs_of_life_and_says_hello_until_there_is_an_answer() -> None:
    made = talk()
    made.tick(BEAT)
    made.tick(BEAT)
    assert made.take() == [Alive()]
    lonely = talk(known=False)
    lonely.tick(AGAIN)
    assert [type(one) for one in lonely.take()] == [Hello]


def test_when_the_coordinator_says_nothing_everybody_who_waits_is_told() -> None:
    made, told, looked = talk(), Told(), Told()
    made.submit(asked(1, told))
    made.look(looked)
    made.hear(Alive(), 30.0)
    made.tick(89.0)
    assert told == []
    made.tick(90.0)
    assert (
        isinstance(told[0], EngineStopped) and "has said nothing for 60 s" in str(told[0]) and isinstance(looked[0], EngineStopped)
    )


def test_a_look_tells_of_what_was_asked_before_it() -> None:
    made = talk()
    made.submit(asked())
    made.look(Told())
    assert [type(one) for one in made.take()] == [Submit, Look]


def test_a_look_is_said_again_until_it_is_answered() -> None:
    made, told = talk(), Told()
    made.look(told)
    assert made.take() == [Look()]
    made.tick(BEAT)
    assert made.take() == [Alive(), Look()]
    made.hear(Status("running", 0, 0, 1, [], {}), 1.0)
    assert [one.state for one in told] == ["running"]
    made.tick(2 * BEAT)
    assert made.take() == [Alive()]


def said(made: Conversation) -> list[tuple[str, int]]:
    """What it says of requests."""
    return [(type(one).__name__, one.number) for one in made.take()]


def end(number: int) -> Said:
    return Said([Piece(number, 0, 0, [], "", "length")])


def test_no_more_are_open_than_the_coordinator_takes_and_the_rest_follow_as_earlier_ones_end() -> None:
    made, told = talk(most_open=2), Told()
    for number in range(1, 6):
        made.submit(asked(number, told, priority=-1 if number == 5 else 0))
    assert said(made) == [("Submit", 5), ("Submit", 1)], "the most urgent first"
    made.hear(end(1), 0.0)
    assert said(made) == [("Acknowledge", 1), ("Submit", 2)], "the end is heard first, or there would be no room"
    made.hear(Refused(2, "no"), 0.0)
    assert said(made) == [("Submit", 3)]
    for number in (3, 5):
        made.hear(end(number), 0.0)
    assert said(made) == [("Acknowledge", 3), ("Acknowledge", 5), ("Submit", 4)]
    made.hear(end(4), 0.0)
    assert said(made) == [("Acknowledge", 4)] and sum(isinstance(one, RequestOutput) for one in told) == 4


def test_of_what_waits_for_room_and_is_aborted_nothing_is_said() -> None:
    made = talk(most_open=2)
    for number in range(1, 7):
        made.submit(asked(number))
    assert len(said(made)) == 2
    made.abort(3)
    made.hear(end(1), 0.0)
    assert said(made) == [("Acknowledge", 1), ("Submit", 4)]
    for number in range(1, 7):
        made.abort(number)
    assert said(made) == [("Abort", 2), ("Abort", 4)]
    made.submit(asked(7))
    assert said(made) == [("Submit", 7)]


def test_those_that_were_aborted_while_they_waited_leave_nothing_behind() -> None:
    made = talk(most_open=1)
    made.submit(asked(1))
    assert said(made) == [("Submit", 1)]
    made.submit(asked(2))
    for number in range(3, 1000):
        made.submit(asked(number))
        made.abort(number)
    assert len(made._turns) <= 4
    made.abort(1)
    assert said(made) == [("Abort", 1), ("Submit", 2)]


def test_what_waits_for_room_waits_on_when_the_coordinator_is_another_one() -> None:
    made = talk(known=False)
    for number in range(1, 5):
        made.submit(asked(number))
    made.hear(welcome(most_open=2), 0.0)
    assert said(made) == [("Submit", 1), ("Submit", 2)]
    made.hear(Stranger(), 3.0)
    (hello,) = made.take()
    assert [one.number for one in hello.open] == [1, 2]
    made.hear(welcome({2: 7}, 2), 3.0)
    assert said(made) == [("Submit", 1)]
    made.hear(Stranger(), 6.0)
    made.abort(2)
    made.take()
    made.hear(welcome({2: 7}, 2), 6.0)
    assert said(made) == [("Abort", 2), ("Submit", 1), ("Submit", 3)]


def test_where_the_next_coordinator_takes_fewer_what_has_begun_waits_for_room_too() -> None:
    """And goes on from what was heard of it."""
    made, told = talk(most_open=3), Told()
    for number in (1, 2, 3):
        made.submit(asked(number, told))
    made.take()
    for number in (1, 2, 3):
        made.hear(Accepted(number, 70 + number), 0.0)
    made.hear(Said([Piece(3, 0, 0, [5], "x")]), 0.0)
    made.hear(Stranger(), 3.0)
    made.take()
    made.hear(welcome({2: 72}, 2), 3.0)
    assert said(made) == [("Submit", 1)]
    made.hear(end(2), 4.0)
    acknowledged, submit = made.take()
    assert acknowledged == Acknowledge(2) and submit.number == 3 and submit.ask.seed == 73
    assert [list(one.token_ids) for one in submit.heard] == [[5]] and told


def test_a_second_welcome_takes_nothing_for_lost_that_was_submitted_between_both() -> None:
    """Hello was said twice, since nobody answered; the second answer was written before the first requests came."""
    made = talk(most_open=2)
    for number in (1, 2):
        made.submit(asked(number))
    assert len(said(made)) == 2
    made.submit(asked(3, priority=-1))
    made.hear(welcome(most_open=2), 2.0)
    assert said(made) == []


def test_who_waits_for_room_is_told_that_the_coordinator_is_gone() -> None:
    made, told = talk(most_open=1), Told()
    for number in range(1, 4):
        made.submit(asked(number, told))
    made.take()
    made.tick(60.0)
    assert [type(one) for one in told] == [CoordinatorSilent] * 3
    assert [one for one in made.take() if not isinstance(one, Alive)] == [Abort(1)]


@pytest.mark.parametrize("prompt", ["a", [1, 2]])
def test_the_prompts_ids_are_known_from_the_start_or_from_the_first_piece(prompt) -> None:
    made, told = talk(), Told()
    made.submit(asked(1, told, prompt=prompt))
    made.take()
    made.hear(Said([Piece(1, 0, 0, [], "", "error", "it failed")]), 0.0)
    assert told[-1].prompt_token_ids == ([] if prompt == "a" else [1, 2]) and told[-1].error == "it failed"


def test_log_probabilities_of_the_prompt_that_are_told_again_are_heard_once() -> None:
    one, rest = asked(), msgspec.Raw(encode(Rest(prompt_logprobs=[None, (5, -1.5, 1, [])])))
    first = one.take(Piece(1, 0, 0, [1], "a", rest=rest))
    again = one.take(Piece(1, 0, 1, [2], "b", rest=rest))
    assert again.prompt_logprobs is None and first.prompt_logprobs == one.prompt_logprobs is not None
    assert [told and told.logprob for told in one.prompt_logprobs] == [None, -1.5]


def test_what_a_silent_coordinator_has_not_accepted_is_told_soon_and_what_runs_is_not() -> None:
    talks = talk(first_patience=5.0)
    runs, new, late = (asked(number) for number in (1, 2, 3))
    talks.submit(runs)
    talks.take()
    talks.hear(Accepted(1, 7), 1.0)
    talks.submit(new)
    talks.take()
    talks.tick(5.9)
    assert not new.reader
    talks.tick(6.0)
    (told,) = new.reader
    assert isinstance(told, CoordinatorSilent) and "has said nothing for 5 s" in str(told) and Abort(2) in talks.take()
    talks.submit(late)
    talks.tick(6.25)
    assert [type(one) for one in late.reader] == [CoordinatorSilent] and not runs.reader and len(new.reader) == 1
    talks.hear(Said([Piece(1, 0, 0, [4], finish="length")]), 30.0)
    assert [type(one) for one in runs.reader] == [Delta, RequestOutput]
    talks.submit(asked(4, late.reader))
    talks.tick(30.5)
    assert len(late.reader) == 1, "it speaks again"


def test_in_a_long_outage_each_new_request_is_told_at_once() -> None:
    """Also behind the moment at which everybody was told, which is no word of the coordinator."""
    talks, told = talk(first_patience=5.0), Told()
    talks.tick(60.0)
    talks.submit(asked(1, told))
    talks.tick(60.25)
    assert [type(one) for one in told] == [CoordinatorSilent] and "has said nothing for 5 s" in str(told[0])


def test_who_gave_one_patience_alone_waits_so_long_in_a_long_outage_too() -> None:
    talks, told = talk(), Told()
    talks.tick(60.0)
    talks.submit(asked(1, told))
    talks.tick(119.0)
    assert told == []
    talks.tick(120.0)
    assert [type(one) for one in told] == [CoordinatorSilent]


def test_a_request_hears_nothing_of_another_model_than_the_one_it_is_for() -> None:
    talks = talk()
    for number, identity in ((1, "mine"), (2, "mine"), (3, "")):
        talks.submit(asked(number, identity=identity))
    mine, other, any_of_them = (talks._open.get(n) or talks._waiting[n] for n in (1, 2, 3))
    talks.take()
    for number, identity in ((1, "mine"), (2, "another"), (3, "another")):
        talks.hear(Begun(number, identity), 1.0)
    assert [type(one) for one in other.reader] == [ModelReplaced] and Abort(2) in talks.take()
    talks.hear(Said([Piece(number, 0, 0, [4], finish="length") for number in (1, 2, 3)]), 1.0)
    assert len(other.reader) == 1
    for one in (mine, any_of_them):
        assert [type(said) for said in one.reader] == [Delta, RequestOutput]
