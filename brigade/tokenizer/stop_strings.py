"""Stop strings, matched on text: across token borders, and never leaked into a stream."""

from __future__ import annotations

from brigade.errors import RequestError


class StopStrings:
    """Lets text through until a stop string appears in it.

    Invariant: everything received = sent + held, and `held` is the longest suffix of what was received that is a proper
    prefix of some stop string. So what was sent can never turn out to be the beginning of one.

    The text is searched after every delta, and the first delta that completes a stop string ends the stream: a longer or
    earlier one that only a later delta would complete does not count.

    A delta pushed with `may_stop=False` (before `min_tokens`) completes nothing: a stop string that ends in it is plain
    text, then and later. What counts is where a stop string ends, so one that begins in such a delta and is completed by
    a later one does end the stream; its beginning is held back like any other.
    """

    def __init__(self, stops: tuple[str, ...], include: bool = False) -> None:
        if isinstance(stops, str):
            raise RequestError(f"stop is the string {stops!r}; give a list of strings, such as [{stops!r}]")
        for index, stop in enumerate(stops):
            if not isinstance(stop, str) or not stop:
                raise RequestError(f"stop[{index}] is {stop!r}; a stop string needs at least one character")
        self.stops, self.include = stops, include
        self._held = ""

    def push(self, delta: str, may_stop: bool = True) -> tuple[str, str | None]:
        """The text that is safe to send now, and the stop string that was met (the earliest; of several, the longest)."""
        if not self.stops:
            return delta, None
        text = self._held + delta
        if may_stop and (found := self._completed(text, len(self._held))) is not None:
            place, stop = found
            self._held = ""
            return text[: place + len(stop) if self.include else place], stop
        keep = self._open_suffix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def _completed(self, text: str, old: int) -> tuple[int, str] | None:
        """The stop string that ends after the first `old` characters, and where it begins."""
        found = []
        for stop in self.stops:
            place = text.find(stop, max(0, old - len(stop) + 1))
            if place >= 0:
                found.append((place, -len(stop), stop))
        if not found:
            return None
        place, _, stop = min(found)
        return place, stop

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` that could still become a stop string."""
        start = len(text)
        for stop in self.stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1), start)
            while at >= 0 and not stop.startswith(text[at:]):
                at = text.find(stop[0], at + 1, start)
            if at >= 0:
                start = at
        return len(text) - start

    def finish(self) -> str:
        """Nothing more will come: what was held back is plain text after all."""
        held, self._held = self._held, ""
        return held
