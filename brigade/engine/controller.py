"""The text-generation controller: one step of text, from a batch to the deltas it adds.

send -> ... -> receive -> last-token logits -> sampler -> ids -> stop check -> text delta. Both engines share it; it knows requests
and tensors, but no queue and no block. Between sending a step and receiving it, others may be sent.

A failure that belongs to one request ends that request alone, with the finish reason "error": logits that are not finite, a
sampling rule, processor or parameter that raises, text that cannot be made. Rows do not depend on each other, so the others go
on with the same bits. What the runner raises belongs to nobody, and is the engine's failure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from brigade.batch import Batch, Span, Wanted
from brigade.engine.outputs import Delta
from brigade.engine.request import Request, clock
from brigade.engine.sampling.logprobs import token_logprobs
from brigade.engine.sampling.masses import to_host
from brigade.engine.sampling.sampler import LogitsError, Sampled, Sampler
from brigade.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.engine.runner import Answer, Runner
    from brigade.engine.sampling.params import SamplingParams
    from brigade.tokenizer import Tokenizer


@dataclass(slots=True)
class _Read:
    """Who takes a token from an answer: `readers` from these of its rows, `best` from a pair. `failed` could not keep its prompt's
    rows."""

    readers: list[Request] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    best: list[tuple[Request, Sampled | Exception]] = field(default_factory=list)
    failed: list[Request] = field(default_factory=list)


class TextGenerationController:
    """`runner` computes the steps; `sampler` turns rows of logits into ids."""

    def __init__(
        self,
        runner: Runner,
        sampler: Sampler | None = None,
        tokenizer: Tokenizer | None = None,
        eos_ids: Sequence[int] = (),
    ) -> None:
        self.runner, self.sampler, self.tokenizer = runner, sampler or Sampler(), tokenizer
        self.eos_ids = tuple(eos_ids)

    def takes_best(self, params: SamplingParams) -> bool:
        """Whether a token is nothing but the lowest id of the greatest logit, so that whoever computes can find it. A sampler of
        somebody's own is shown every row."""
        return self.runner.finds_best and type(self.sampler) is Sampler and params.is_plain

    def send(self, batch: Batch) -> None:
        self.runner.send(batch)

    def finish(self, batch: Batch, owners: Sequence[Request | None]) -> list[Delta]:
        """Receive the oldest step, which is this batch, and return what it adds. `owners` of the batch's spans, in the same order;
        None where a span's answer is not for anybody any more."""
        with torch.inference_mode():
            answer = self.runner.receive()
            read = self._read(batch, owners, answer)
            logits, sampled = answer.logits_RV, []
            if read.readers:
                if len(read.rows) != logits.shape[0]:
                    logits = logits[read.rows]
                sampled = self._sample(logits, read.readers)
        now = clock()
        deltas = [self._append(request, token, now) for request, token in zip(read.readers, sampled, strict=True)]
        deltas += [self._append(request, token, now) for request, token in read.best]
        return deltas + [request.delta(last_words(request)) for request in read.failed]

    def _read(self, batch: Batch, owners: Sequence[Request | None], answer: Answer) -> _Read:
        """Keep prompt rows for those who want them, and find who samples now, and from what."""
        read, row, pairs = _Read(), 0, iter(answer.best)
        for span, request in zip(batch.spans, owners, strict=True):
            if span.wanted is Wanted.LAST:
                row += 1
            elif span.wanted is Wanted.ALL:
                row += len(span.token_ids)
                if request is not None:
                    self._try_prompt_rows(request, span, answer.logits_RV[row - len(span.token_ids) : row], read.failed)
            elif span.wanted is Wanted.BEST:
                value, token = next(pairs)
                if request is not None and request.is_sampling:
                    read.best.append((request, _best(value, token, request.position)))
                continue
            else:
                continue
            if request is None:
                continue
            if span.end == len(request.ids) and request.is_sampling and not request.is_finished:
                read.readers.append(request)
                read.rows.append(row - 1)
        return read

    def _try_prompt_rows(self, request: Request, span: Span, logits_LV: Tensor, failed: list[Request]) -> None:
        try:
            self._keep_prompt_rows(request, span.start, logits_LV)
        except Exception as error:
            request.fail(error)
            failed.append(request)

    @staticmethod
    def _keep_prompt_rows(request: Request, start: int, logits_LV: Tensor) -> None:
        prompt = request.prompt_token_ids
        count = min(len(prompt) - start, logits_LV.shape[0])
        if request.collect_logits:  # kept as they are: whoever asks for logits wants to see what the model says
            for offset in range(count):
                request.prompt_logits[start + offset] = logits_LV[offset]
        top = request.params.prompt_logprobs
        if top is None:
            return
        predicted = range(start + 1, min(start + count, len(prompt) - 1) + 1)
        targets = [prompt[position] for position in predicted]
        wanted_LV = logits_LV[: len(targets)]
        bad = np.flatnonzero(~np.isfinite(to_host(wanted_LV).max(axis=1)))
        if len(bad):
            raise LogitsError(bad.tolist(), [predicted[place] for place in bad[:1].tolist()])
        for position, found in zip(predicted, token_logprobs(wanted_LV, targets, top), strict=True):
            request.prompt_logprobs[position] = found

    def _sample(self, logits_RV: Tensor, readers: Sequence[Request]) -> list[Sampled | Exception]:
        """A token for each row, or why there is none. The sampler is asked for all rows at once; where that fails it is asked
        again row by row, which finds the same tokens for the others."""
        try:
            return self._ask_sampler(logits_RV, readers)
        except Exception as error:
            if len(readers) == 1:
                return [error]
        found: list[Sampled | Exception] = []
        for place, request in enumerate(readers):
            try:
                found += self._ask_sampler(logits_RV[place : place + 1], [request])
            except Exception as error:
                found.append(error)
        return found

    def _ask_sampler(self, logits_RV: Tensor, readers: Sequence[Request]) -> list[Sampled]:
        """It may be somebody's own: what the model could not go on with would be everybody's failure in the next step."""
        found, vocabulary = list(self.sampler.sample(logits_RV, readers)), logits_RV.shape[1]
        if len(found) != len(readers):
            raise ValueError(f"the sampler gave {len(found)} tokens for {len(readers)} rows")
        for sampled, request in zip(found, readers, strict=True):
            if not 0 <= sampled.token_id < vocabulary:
                raise ValueError(f"the sampler gave token {sampled.token_id}; ids go from 0 to {vocabulary - 1}")
            if request.matcher is not None and not request.matcher.allows(sampled.token_id, request.ending):
                raise ValueError(f"the sampler gave token {sampled.token_id}, which the request's constraint does not allow")
            if request.logprobs is not None and sampled.logprobs is None:
                raise ValueError("the sampler gave no log-probabilities, which were asked for")
        return found

    def _append(self, request: Request, sampled: Sampled | Exception, now: float) -> Delta:
        if isinstance(sampled, Exception):
            request.fail(sampled)
            return request.delta(last_words(request))
        token = sampled.token_id
        if request.logprobs is not None:
            assert sampled.logprobs is not None
            request.logprobs.append(sampled.logprobs)
        if request.first_token is None:
            request.first_token = now
        try:
            text = self._say(request, token, now)
        except Exception as error:
            request.fail(error)
            text = ""
        logprobs = None if request.logprobs is None else request.logprobs[-1:]
        return request.delta(text, (token,), logprobs)

    def _say(self, request: Request, token: int, now: float) -> str:
        """The request goes on by this token. What comes back is the text that is safe to send then."""
        request.ids.append(token)
        request.output_token_ids.append(token)
        text = self._text(request, token)
        if request.matcher is not None and request.finish_reason is None:
            request.matcher.follow(request.output_token_ids)
            if request.matcher.ended_at == len(request.output_token_ids):
                request.finish_reason = "stop"  # nothing can follow
        text = self._finish(request, text, now)
        if text:
            request.pieces.append(text)
        return text

    def say_again(self, request: Request, token_ids: Sequence[int]) -> None:
        """Tokens that were sampled elsewhere: the request and its text stand behind them as if it had been here."""
        for count, token in enumerate(token_ids):
            if request.is_finished:
                raise RequestError(
                    f"{len(token_ids)} tokens were delivered, but this request ends after {count}; it began with other parameters"
                )
            self._say(request, token, clock())

    def _finish(self, request: Request, text: str, now: float) -> str:
        """The delta's text; where the request ends here, with all that was held back."""
        if request.finish_reason is None and len(request.output_token_ids) >= request.max_tokens:
            request.finish_reason = "length"
        if request.finish_reason is None:
            return text
        request.finished = now
        return text + self._flush(request)

    def _text(self, request: Request, token: int) -> str:
        """The text this token makes safe to send; sets the finish reason where the token or its text stops it.

        Tokens before the `min_tokens`-th stop nothing: a stop string that their text completes is text like any other."""
        params = request.params
        early = len(request.output_token_ids) < params.min_tokens
        if not early and token in params.stop_ids or not early and not params.ignore_eos and token in request.eos_ids:
            request.finish_reason, request.stop_reason = "stop", token
        if request.detokenizer is None:
            return ""
        if request.finish_reason is not None:
            return ""  # the stopping id is no part of the text
        text = request.detokenizer.push(token)
        if request.stop_strings is None or not text:
            return text
        text, matched = request.stop_strings.push(text, not early)
        if matched is not None:
            request.finish_reason, request.stop_reason = "stop", matched
        return text

    @staticmethod
    def _flush(request: Request) -> str:
        """What was held back, once nothing more can come. After a stop string nothing is owed."""
        if request.detokenizer is None or isinstance(request.stop_reason, str):
            return ""
        text = request.detokenizer.finish()
        if request.stop_strings is None:
            return text
        text, matched = request.stop_strings.push(text)
        if matched is not None:
            request.finish_reason, request.stop_reason = "stop", matched
            return text
        return text + request.stop_strings.finish()


def _best(value: float, token: int, position: int) -> Sampled | Exception:
    return Sampled(token, None) if math.isfinite(value) else LogitsError([0], [position])


def last_words(request: Request) -> str:
    """The text that was held back, of a request that ends before its time: its ids are in the output, so their text is too."""
    if request.detokenizer is None or not request.output_token_ids or request.known_end is not None:
        return ""
    try:
        text = request.detokenizer.finish()
        if request.stop_strings is not None:
            text = request.stop_strings.push(text, may_stop=False)[0] + request.stop_strings.finish()
    except Exception:  # text that cannot be made is what may have ended it
        return ""
    if text:
        request.pieces.append(text)
    return text
