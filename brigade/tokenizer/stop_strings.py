"""Stop strings, matched on text: across token borders, and never leaked into a stream."""

from __future__ import annotations


class StopStrings:
    """Lets text through until a stop string appears in it.

    Invariant: everything received = sent + held, and `held` is the longest suffix of what was received that is a proper
    prefix of some stop string. So what was sent can never turn out to be the beginning of one.
    """

    def __init__(self, stops: tuple[str, ...], include: bool = False) -> None:
        self.stops, self.include = stops, include
        self._held = ""

    def push(self, delta: str) -> tuple[str, str | None]:
        """The text that is safe to send now, and the stop string that was met (the earliest; of several, the longest)."""
        text = self._held + delta
        found = [(text.find(stop), -len(stop), stop) for stop in self.stops if stop in text]
        if found:
            place, _, stop = min(found)
            self._held = ""
            return text[: place + len(stop) if self.include else place], stop
        keep = self._open_suffix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` that could still become a stop string."""
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if stop.startswith(text[len(text) - size :]):
                    longest = size
                    break
        return longest

    def finish(self) -> str:
        """Nothing more will come: what was held back is plain text after all."""
        held, self._held = self._held, ""
        return held
