"""A request on its way through the engine: what was asked, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brigade.engine.block_pool import Node, root_of
from brigade.engine.outputs import Delta, FinishReason, RequestMetrics, Sample
from brigade.engine.sampling.params import SamplingParams
from brigade.errors import in_one_line

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.engine.constraint.matcher import Matcher
    from brigade.engine.sampling.logprobs import TokenLogprobs
    from brigade.tokenizer import Detokenizer, StopStrings

clock = time.perf_counter


def most_positions(prompt: int, max_tokens: int) -> int:
    """Of the cache: those of the prompt, and of all tokens behind it but the last, which is never computed."""
    return prompt + max(max_tokens - 1, 0)


def longest_request(positions: int, cache: int) -> int:
    """Prompt and output together, where the model allows so many positions and the cache holds so many."""
    return min(positions, cache + 1)


@dataclass(slots=True, eq=False)
class Request:
    """One sample of one submitted prompt. `ids` is the prompt and every token so far. The cache holds the first `settled` of them,
    in `blocks`; those behind, up to `computed`, are computed by steps under way."""

    request_id: str
    index: int
    order: tuple[int, int]  # (priority, number of arrival): lower goes first
    params: SamplingParams
    seed: int
    prompt_token_ids: Sequence[int]
    eos_ids: tuple[int, ...]
    arrival: float
    max_tokens: int
    detokenizer: Detokenizer | None = None
    stop_strings: StopStrings | None = None
    collect_logits: bool = False
    matcher: Matcher | None = None  # of a constrained one: where its answer stands
    takes_best: bool = False  # the greatest logit and its id decide: steps need not return the whole row

    rank: tuple[int, int, int] = field(init=False)  # `order`, and the index among samples of one prompt: a total order
    ids: list[int] = field(default_factory=list)
    output_token_ids: list[int] = field(default_factory=list)
    computed: int = 0
    settled: int = 0
    life: int = 0  # a new one begins where its blocks are taken: what was sent before is not for it any more
    blocks: list[int] = field(default_factory=list)
    published: int = 0  # leading blocks whose content is known to the pool
    root: int = field(init=False)  # below which its first block is known
    tip: int = field(init=False)  # the pool's node of the last of them
    known: list[Node] = field(default_factory=list)  # leading blocks found in the pool at the last look; not held for that
    keys: list[tuple[int, ...]] = field(default_factory=list)  # the ids of leading full blocks, as far as they were asked for
    bypassed: int = 0  # times a later request was admitted first

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    prompt_logits: dict[int, Tensor] = field(default_factory=dict)
    has_told_prompt: bool = False  # its reader has the log-probabilities of the prompt
    has_told_ids: bool = False  # and its ids
    known_end: FinishReason | None = None  # of one that ended elsewhere, and whose prompt is computed once more for its rows
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    first_token: float | None = None
    finished: float | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.rank = (*self.order, self.index)
        self.root = self.tip = root_of(self.params.cache_salt)
        self.ids = list(self.prompt_token_ids)
        if self.params.logprobs is not None:
            self.logprobs = []

    @property
    def pending(self) -> int:
        """Tokens whose keys and values no step was sent for; 1 while decoding, and 0 while its next token is under way."""
        return len(self.ids) - self.computed

    @property
    def position(self) -> int:
        """The position the next sampled token will take."""
        return len(self.ids)

    @property
    def ending(self) -> tuple[int, ...]:
        """The ids that end the answer by themselves, where something may."""
        return (*self.eos_ids, *self.params.stop_token_ids)

    @property
    def wants_every_row(self) -> bool:
        return self.collect_logits or self.params.prompt_logprobs is not None

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are to come. Where none are, the request ends when all its ids are computed."""
        return self.max_tokens > 0 and self.known_end is None

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def most_tokens(self) -> int:
        """Cache positions this request can ever need."""
        return most_positions(len(self.prompt_token_ids), self.max_tokens)

    def key(self, place: int, block_size: int) -> tuple[int, ...]:
        """The ids of a full block, cut out once: ids are only ever appended, so what is full stays as it is."""
        while len(self.keys) <= place:
            start = len(self.keys) * block_size
            assert start + block_size <= len(self.ids), f"block {place} of request {self.request_id} is not full"
            self.keys.append(tuple(self.ids[start : start + block_size]))
        return self.keys[place]

    def forget_cache(self) -> None:
        self.life += 1
        self.blocks = []
        self.computed = self.settled = self.published = 0
        self.tip = self.root

    def fail(self, error: Exception) -> None:
        """End this request alone."""
        self.finish_reason, self.finished = "error", clock()
        self.error = in_one_line(error)

    def prompt_rows(self) -> list[TokenLogprobs | None] | None:
        """The log-probabilities of the prompt, as far as they are known; None where nobody asked for them."""
        if self.params.prompt_logprobs is None:
            return None
        return [self.prompt_logprobs.get(position) for position in range(len(self.prompt_token_ids))]

    def delta(self, text: str = "", token_ids: Sequence[int] = (), logprobs: Sequence[TokenLogprobs] | None = None) -> Delta:
        """What is new, with all that belongs to an end where this is one, and the prompt's rows once they are whole."""
        rows = None
        if self.index == 0 and not self.has_told_prompt and len(self.prompt_logprobs) == len(self.prompt_token_ids) - 1:
            rows, self.has_told_prompt = self.prompt_rows(), True
        ids = tuple(self.prompt_token_ids) if self.index == 0 and not self.has_told_ids else None
        self.has_told_ids = True
        return Delta(
            self.request_id, self.index, text, token_ids, logprobs, self.finish_reason, self.error, self.stop_reason, rows,
            self.metrics() if self.is_finished else None, ids,
        )  # fmt: skip

    def metrics(self) -> RequestMetrics:
        return RequestMetrics(self.arrival, self.first_token, self.finished, self.preemptions, self.cached_tokens, self.steps)

    def sample(self) -> Sample:
        assert self.finish_reason is not None
        return Sample(
            self.index, "".join(self.pieces), self.output_token_ids, self.logprobs, self.finish_reason,
            self.stop_reason, self.seed, self.metrics(), self.error,
        )  # fmt: skip
