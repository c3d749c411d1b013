"""A request that was checked, and what an engine can serve at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brigade.engine.config import EngineConfig
from brigade.engine.request import longest_request, most_positions
from brigade.engine.sampling.params import SamplingParams
from brigade.errors import RequestError

if TYPE_CHECKING:
    from brigade.engine.constraint.matcher import Matcher
    from brigade.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the reader of a sample has from an engine that is gone: these tokens, and so many characters of text, those of an echo
    among them."""

    token_ids: Sequence[int] = ()
    characters: int = 0


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was checked and can be served: what `Engine.prepare` returns and `Engine.add` takes. `delivered`: of each
    sample, if the request goes on from another engine. `matchers`: of each sample of a constrained request, behind those tokens."""

    prompt: str | None
    ids: list[int]
    params: SamplingParams
    max_tokens: int
    seed: int
    arrival: float
    collect_logits: bool
    delivered: tuple[Delivered, ...] = ()
    matchers: tuple[Matcher, ...] = ()


def first_matcher(
    constraint: Mapping[str, Any], tokenizer: Tokenizer | None, vocab_size: int | None, goes_on: bool = False
) -> Matcher:
    """The constraint of one answer, at its start. It is compiled, which may take longer than a step: for the thread that asks.
    Refused, with the place, where it cannot be compiled. `goes_on`: an answer that has begun elsewhere, which no time ends."""
    if tokenizer is None:
        raise RequestError("a constraint is on text, but this model has no tokenizer; drop constraint", "constraint")
    from brigade.engine.constraint.grammars import grammars_of

    return grammars_of(tokenizer, vocab_size).matcher(constraint, goes_on)


@dataclass(frozen=True, slots=True)
class Limits:
    """`positions`: of prompt and output together, as the model and its settings allow. A small cache may hold fewer: `longest`."""

    positions: int
    vocab_size: int | None
    num_blocks: int
    block_size: int
    has_tokenizer: bool
    is_whole_model: bool  # positions are all that the model was made for, so that no setting allows more
    max_waiting: int

    @classmethod
    def of(cls, config: EngineConfig, positions: int, vocab_size: int | None, num_blocks: int, has_tokenizer: bool) -> Limits:
        is_whole_model = config.max_model_len is None
        return cls(positions, vocab_size, num_blocks, config.block_size, has_tokenizer, is_whole_model, config.max_waiting)

    @property
    def longest(self) -> int:
        return longest_request(self.positions, self.num_blocks * self.block_size)

    def check_count(self, count: int) -> None:
        """Of samples that come at once."""
        if count > self.max_waiting:
            raise RequestError(
                f"{count} requests came at once (n of all prompts together), but max_waiting is {self.max_waiting}; lower n, "
                "give fewer prompts at once, or raise max_waiting",
                "n",
            )

    def admit(self, ids: list[int], params: SamplingParams) -> int:
        """The most tokens of its answer, for a request that can be served."""
        max_tokens = self.longest - len(ids) if params.max_tokens is None else params.max_tokens
        self.check(ids, max_tokens, params)
        return max_tokens

    def check(self, ids: list[int], max_tokens: int, params: SamplingParams) -> None:
        """Refuse, with the numbers, what could never be served."""
        if not ids:
            raise RequestError("the prompt has 0 tokens; give at least 1", "prompt")
        bad = self._unknown(ids)
        if bad is not None:
            known = f"the vocabulary of {self.vocab_size}; use 0 to {self.vocab_size - 1}"
            raise RequestError(f"token id {bad} is outside {known}", "prompt")
        if len(ids) + max(max_tokens, 0) > self.positions or (max_tokens <= 0 and params.max_tokens is None):
            asked = "an answer" if params.max_tokens is None else f"max_tokens {params.max_tokens}"
            wanted = f"{len(ids)} prompt tokens and {asked}"
            lower = "" if params.max_tokens is None or len(ids) >= self.longest else " or lower max_tokens"
            remedy = "" if self.is_whole_model else ", or raise max_model_len if the model allows it"
            if self.longest < self.positions:
                remedy = ", or raise kv_memory or kv_blocks"
            raise RequestError(
                f"{wanted} exceed the limit of {self.longest} positions; shorten the prompt{lower}{remedy}",
                "prompt",
                "too long",
            )
        blocks = -(-most_positions(len(ids), max_tokens) // self.block_size)
        if blocks > self.num_blocks:
            raise RequestError(
                f"{len(ids)} prompt tokens and max_tokens {max_tokens} need {blocks} KV blocks of "
                f"{self.block_size} positions; the cache has {self.num_blocks}: shorten the prompt or lower max_tokens, or raise "
                "kv_memory or kv_blocks",
                "prompt",
                "too long",
            )
        if self.vocab_size is not None:
            params.check_vocabulary(self.vocab_size)
        if params.stop and not self.has_tokenizer:
            raise RequestError("stop strings match on text, but this model has no tokenizer; use stop_token_ids")
        if params.echo and not self.has_tokenizer:
            raise RequestError("echo repeats the prompt's text, but this model has no tokenizer; drop echo")

    def check_delivered(self, delivered: Sequence[Delivered], max_tokens: int, params: SamplingParams) -> None:
        """Refuse what no request of these parameters can have said."""
        if not delivered:
            return
        if len(delivered) != params.n:
            raise RequestError(f"delivered has {len(delivered)} entries, but n is {params.n}; give one for each sample")
        if params.seed is None and not params.is_greedy:
            raise RequestError("a sampled request that goes on needs the seed that it began with; give seed")
        for index, one in enumerate(delivered):
            if len(one.token_ids) > max_tokens:
                raise RequestError(f"sample {index} has {len(one.token_ids)} tokens delivered, but max_tokens is {max_tokens}")
            bad = self._unknown(one.token_ids)
            if bad is not None:
                known = f"the vocabulary of {self.vocab_size}"
                raise RequestError(f"sample {index} has token {bad} delivered, which is outside {known}")
            if type(one.characters) is not int or one.characters < 0:
                raise RequestError(f"sample {index} has {one.characters!r} characters delivered; give an integer, 0 or more")

    def _unknown(self, ids: Sequence[int]) -> int | None:
        """The first id that the vocabulary does not have."""
        return next((i for i in ids if i < 0 or (self.vocab_size is not None and i >= self.vocab_size)), None)
