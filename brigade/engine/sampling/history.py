"""What a row has said so far, as arrays that grow by one token a step instead of being counted anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brigade.engine.sampling.row import SampleRow


class History:
    """The distinct ids of one row's prompt and output, and how often each was put out."""

    def __init__(self, row: SampleRow) -> None:
        self.row = row  # held, so that no other row can take its address
        prompt = np.unique(np.asarray(row.prompt_token_ids, np.int64))
        self._ids = np.zeros(len(prompt) + 64, np.int64)
        self._ids[: len(prompt)] = prompt
        self._counts = np.zeros(len(self._ids), np.float32)
        self._place = {token: i for i, token in enumerate(prompt.tolist())}
        self._consumed, self._last = 0, -1

    @property
    def ids(self) -> np.ndarray:
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> np.ndarray:
        return self._counts[: len(self._place)]

    def follows(self, output: Sequence[int]) -> bool:
        """Whether `output` is what was counted, or more of it."""
        return len(output) >= self._consumed and (self._consumed == 0 or output[self._consumed - 1] == self._last)

    def catch_up(self) -> None:
        output = self.row.output_token_ids
        for i in range(self._consumed, len(output)):
            token = output[i]
            place = self._place.setdefault(token, len(self._place))
            if place == len(self._ids):
                self._ids, self._counts = (np.concatenate([a, np.zeros_like(a)]) for a in (self._ids, self._counts))
            self._ids[place] = token
            self._counts[place] += 1.0
            self._last = token
        self._consumed = len(output)


class Histories:
    """The histories of the last step's rows. A row's output only grows; where it has shrunk it is counted anew."""

    def __init__(self) -> None:
        self._held: dict[int, History] = {}

    def of(self, rows: Sequence[SampleRow]) -> list[History]:
        held: dict[int, History] = {}
        for row in rows:
            history = self._held.get(id(row))
            if history is None or not history.follows(row.output_token_ids):
                history = History(row)
            history.catch_up()
            held[id(row)] = history
        self._held = held
        return [held[id(row)] for row in rows]
