"""What a parser of tool calls says about a text, in the order in which it is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The function is known and its arguments begin. `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments, as JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """`whole`: the joined arguments are the JSON text of one object. Otherwise they are what was said before the answer was cut
    off, or before it stopped being JSON."""

    index: int
    whole: bool


Event = Content | CallBegan | CallArguments | CallEnded


def joined(events: list[Event]) -> list[Event]:
    """The same events, with the pieces of one text put together."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Content) and isinstance(last, Content):
            found[-1] = Content(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and event.index == last.index:
            found[-1] = CallArguments(last.index, last.text + event.text)
        else:
            found.append(event)
    return found
