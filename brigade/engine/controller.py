"""The text-generation controller: one step of text, from a batch to the deltas it adds.

forward -> last-token logits -> sampler -> ids -> stop check -> text delta. Both engines share it; it knows requests and
tensors, but no queue and no block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from brigade.batch import Batch, Wanted
from brigade.engine.outputs import Delta
from brigade.engine.request import Request, clock
from brigade.engine.sampling.logprobs import token_logprobs
from brigade.engine.sampling.sampler import Sampled, Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.backends.kv_cache import KVCache
    from brigade.tokenizer import Tokenizer


class TextGenerationController:
    """`model(batch, cache)` returns logits [wanted rows, vocabulary]; `sampler` turns rows into ids."""

    def __init__(
        self,
        model: Callable[[Batch, Any], Tensor],
        sampler: Sampler | None = None,
        tokenizer: Tokenizer | None = None,
        eos_ids: Sequence[int] = (),
        cache: KVCache | None = None,
    ) -> None:
        self.model, self.sampler, self.tokenizer = model, sampler or Sampler(), tokenizer
        self.eos_ids, self.cache = tuple(eos_ids), cache

    def run(self, batch: Batch, requests: Sequence[Request]) -> list[Delta]:
        """Compute one step. `requests` are the owners of the batch's spans, in the same order."""
        with torch.inference_mode():
            logits = self.model(batch, self.cache)
            readers, rows = self._read_rows(batch, requests, logits)
            if not readers:
                return []
            if len(rows) != logits.shape[0]:
                logits = logits[rows]
            sampled = self.sampler.sample(logits, readers)
        now = clock()
        return [self._append(request, token, now) for request, token in zip(readers, sampled, strict=True)]

    def _read_rows(self, batch: Batch, requests: Sequence[Request], logits: Tensor) -> tuple[list[Request], list[int]]:
        """Keep prompt rows for those who want them; return who samples now, from which row."""
        readers, rows, row = [], [], 0
        for span, request in zip(batch.spans, requests, strict=True):
            if span.wanted is Wanted.NONE:
                continue
            if span.wanted is Wanted.ALL:
                self._keep_prompt_rows(request, span.start, logits[row : row + len(span.token_ids)])
                row += len(span.token_ids)
            else:
                row += 1
            if span.end == len(request.ids) and request.max_tokens > 0:
                readers.append(request)
                rows.append(row - 1)
        return readers, rows

    @staticmethod
    def _keep_prompt_rows(request: Request, start: int, logits_LV: Tensor) -> None:
        prompt = request.prompt_token_ids
        count = min(len(prompt) - start, logits_LV.shape[0])
        if request.collect_logits:
            for offset in range(count):
                request.prompt_logits[start + offset] = logits_LV[offset]
        top = request.params.prompt_logprobs
        if top is None:
            return
        predicted = range(start + 1, min(start + count, len(prompt) - 1) + 1)
        targets = [prompt[position] for position in predicted]
        for position, found in zip(predicted, token_logprobs(logits_LV[: len(targets)], targets, top), strict=True):
            request.prompt_logprobs[position] = found

    def _append(self, request: Request, sampled: Sampled, now: float) -> Delta:
        token = sampled.token_id
        request.ids.append(token)
        request.output_token_ids.append(token)
        if request.logprobs is not None:
            assert sampled.logprobs is not None
            request.logprobs.append(sampled.logprobs)
        if request.first_token is None:
            request.first_token = now
        text = self._text(request, token)
        if request.finish_reason is None and len(request.output_token_ids) >= request.max_tokens:
            request.finish_reason = "length"
        if request.finish_reason is not None:
            request.finished = now
            text += self._flush(request)
        if text:
            request.pieces.append(text)
        logprobs = None if request.logprobs is None else request.logprobs[-1:]
        return Delta(request.request_id, request.index, text, (token,), logprobs, request.finish_reason)

    def _text(self, request: Request, token: int) -> str:
        """The text this token makes safe to send; sets the finish reason where the token or its text stops it.

        Tokens before the `min_tokens`-th stop nothing: a stop string that their text completes is text like any other."""
        params = request.params
        early = len(request.output_token_ids) < params.min_tokens
        if not early and token in params.stop_token_ids or not early and not params.ignore_eos and token in request.eos_ids:
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
