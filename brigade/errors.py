"""What goes wrong, in words.

Everything a user can mend is a `UserError`: one line that names the value, the limit and the remedy. The command
line prints that line and exits with 2. What cannot happen is an `assert`, never one of these.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from typing import Literal


class UserError(ValueError):
    """Something the caller can mend; its text is one line."""


class ConfigError(UserError):
    """A setting or a combination of settings that cannot work."""


class CheckpointError(UserError):
    """A checkpoint that is not whole, not safe to read, or not of a known family."""


# "too long": prompt and answer do not fit the model; "crowded": too many wait; "busy": nothing new is taken for the moment.
RefusalKind = Literal["too long", "crowded", "busy"]

# Why a request that was taken could not go on, where another try may: "no replica": none came in time; "replaced": its model is
# computed with other bits now; "stopped": the coordinator ends for good.
FailureKind = Literal["no replica", "replaced", "stopped"]


class RequestError(UserError):
    """A request that can never be served: refused at submission, with the numbers.

    Its text begins with the parameter that it is about ("temperature is 700; ..."), or `param` names it. `kind`: what a caller may
    do about it, where that is more than to mend a value."""

    def __init__(self, text: str, param: str | None = None, kind: RefusalKind | None = None) -> None:
        super().__init__(text)
        self.param, self.kind = param, kind


class EngineStopped(RuntimeError):
    """The engine was closed, or failed, while a call waited for it or before one came."""

    def again(self) -> EngineStopped:
        """One for each call that hears it, with its own traceback."""
        heard = type(self)(str(self))
        heard.__cause__ = self
        return heard


class CoordinatorSilent(EngineStopped):
    """Nothing was heard of the coordinator for as long as its client waits for it."""

    @classmethod
    def of(cls, address: str, seconds: float) -> CoordinatorSilent:
        return cls(f"the coordinator at {address} has said nothing for {seconds:g} s; see that it runs and can be reached")


class ModelReplaced(EngineStopped):
    """A request was to be computed by another model, or with other bits, than its caller asked for."""


class RankFailed(RuntimeError):
    """A rank died, raised or hangs: the message names it. The other ranks were ended. `lost`: this is not the cause, but what
    another rank met when it waited for the one that is gone."""

    def __init__(self, message: str, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


def signal_name(number: int) -> str | None:
    """Of the signal that ended a process; some have a number alone."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """What was meant, where `name` is a slip of the pen. Another word is less like any of them."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1, 0.75)), None)


def shown_as_json(value: object) -> str:
    """A value out of a file or a request, as one short line can hold it. Never raises."""
    try:
        text = json.dumps(value, default=_repr, ensure_ascii=False)
    except Exception:  # keys that are no texts, or one value inside itself
        text = _repr(value)
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= 60 else text[:57] + "..."


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return type(value).__name__


def in_one_line(error: BaseException) -> str:
    """What an error of any kind says. One of ours speaks for itself; of another the kind is named too. Never raises, whatever the
    error's own text does."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    if isinstance(error, UserError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
