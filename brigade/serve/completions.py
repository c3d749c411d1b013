"""`/v1/completions`: prompts as texts or ids, and their continuations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar
from uuid import uuid4

from msgspec import Meta

from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.prompt import Prompt
from brigade.serve.errors import ApiError
from brigade.serve.fields import MOST_PROMPTS, MOST_SAMPLES, Body, convert
from brigade.serve.job import Answer, Job, Object, usage
from brigade.serve.logprobs import TokenNames, completion_logprobs, prompt_logprobs
from brigade.serve.response_format import constraint_of
from brigade.serve.served import Served

NOT_HERE = {"suffix": "text is only continued at its end", "best_of": "give n, and choose among the answers"}


_CHAT = "ask /v1/chat/completions, which has it, or drop it"


class CompletionBody(Body, kw_only=True):
    elsewhere: ClassVar[dict[str, str]] = {
        "messages": "ask /v1/chat/completions, or give prompt", "max_completion_tokens": "give max_tokens",
        "top_logprobs": "give logprobs: N", "tools": _CHAT, "tool_choice": _CHAT, "parallel_tool_calls": _CHAT,
        "reasoning_effort": _CHAT, "chat_template_kwargs": _CHAT,
    }  # fmt: skip
    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=100)] | None = None
    suffix: str | None = None
    best_of: int | None = None

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        if self.echo:
            given["echo"] = True
        if self.logprobs is not None:
            given["logprobs"] = self.logprobs
            if self.echo:
                given["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        constraint = constraint_of(self.response_format, self.constraint)
        return given if constraint is None else given | {"constraint": constraint}

    @property
    def prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise ApiError(400, "prompt is an empty list; give a text, a list of texts, or token ids", "prompt")
        kinds = set(map(type, self.prompt))
        if kinds == {int}:
            return [self.prompt]
        if kinds != {str} and not (kinds == {list} and all(ids and set(map(type, ids)) == {int} for ids in self.prompt)):
            raise ApiError(
                400, "prompt is neither a text, a list of texts, a list of token ids, nor a list of such lists", "prompt"
            )
        if len(self.prompt) > MOST_PROMPTS:
            said = f"prompt has {len(self.prompt)} prompts; {MOST_PROMPTS} are allowed"
            raise ApiError(400, f"{said}: ask in several requests", "prompt")
        return list(self.prompt)

    def check(self) -> None:
        self.check_stream()
        prompts, n = len(self.prompts), self.n or 1
        if prompts * n > MOST_SAMPLES:
            said = f"{prompts} prompts and n {n} are {prompts * n} answers; {MOST_SAMPLES} are allowed"
            raise ApiError(400, f"{said}: lower n, or ask in several requests", "n")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ApiError(400, f"best_of is {self.best_of}, which is not supported; {NOT_HERE['best_of']}", "best_of")
        if self.suffix:
            raise ApiError(400, f"suffix is not supported: {NOT_HERE['suffix']}; drop it", "suffix", "unsupported_parameter")


def read_completion(found: Mapping[str, Any], served: Served) -> CompletionAnswer:
    body = convert(found, CompletionBody)
    body.check()
    name = served.check_name(body.model)
    job = Job(f"cmpl-{uuid4().hex}", int(time.time()), body.prompts, body.sampling(), bool(body.stream), body.names)
    return CompletionAnswer(job, body, served, name)


class CompletionAnswer(Answer):
    def __init__(self, job: Job, body: CompletionBody, served: Served, name: str) -> None:
        super().__init__(job, served, name)
        self.body = body
        self._names = TokenNames(served, bool(body.return_tokens_as_token_ids))
        self._n = body.n or 1
        self._characters: dict[int, int] = {}  # that were said of a choice so far, for offsets
        self._prompt_rows: dict[int, Sequence[Any]] = {}
        self._echoed: set[int] = set()  # choices that have told the rows of their prompt
        self._prompt_ids: dict[int, Sequence[int]] = {}

    def chunk(self, place: int, delta: Delta) -> list[Object]:
        index = place * self._n + delta.index
        if delta.prompt_token_ids is not None:
            self._prompt_ids[place] = delta.prompt_token_ids
        if delta.prompt_logprobs is not None:
            self._prompt_rows[place] = delta.prompt_logprobs
        choice = self._choice(index, delta.text, delta.finish_reason, delta.stop_reason)
        rows, ids = list(delta.logprobs or ()), list(delta.token_ids)
        is_first = index not in self._characters
        if self.body.logprobs is not None:
            offset = self._characters.get(index, 0)
            if self.body.echo and index not in self._echoed and place in self._prompt_rows:  # its text may have come before
                rows, ids, offset = [*self._prompt_rows[place], *rows], [*self._prompt_ids[place], *ids], 0
                self._echoed.add(index)
            if ids:
                choice["logprobs"] = completion_logprobs(rows, ids, self._names, offset)
        self._characters[index] = self._characters.get(index, 0) + len(delta.text)
        if self.body.return_token_ids:
            choice["token_ids"] = list(delta.token_ids)
            choice["prompt_token_ids"] = list(self._prompt_ids.get(place, ())) if is_first else None
        if delta.prompt_logprobs is not None and self.body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(delta.prompt_logprobs, self._names)
        return [self._object([choice]) | ({"usage": None} if self.body.wants_usage else {})]

    def end(self, outputs: Sequence[RequestOutput]) -> list[Object]:
        return [self._object([]) | {"usage": usage(outputs)}] if self.body.wants_usage else []

    def whole(self, outputs: Sequence[RequestOutput]) -> Object:
        choices = []
        for place, output in enumerate(outputs):
            for sample in output.samples:
                choice = self._choice(place * self._n + sample.index, sample.text, sample.finish_reason, sample.stop_reason)
                if self.body.logprobs is not None:
                    rows, ids = list(sample.logprobs or ()), list(sample.token_ids)
                    if self.body.echo:
                        rows, ids = [*(output.prompt_logprobs or ()), *rows], [*output.prompt_token_ids, *ids]
                    choice["logprobs"] = completion_logprobs(rows, ids, self._names, 0)
                if self.body.return_token_ids:
                    choice |= {"token_ids": list(sample.token_ids), "prompt_token_ids": list(output.prompt_token_ids)}
                if self.body.prompt_logprobs is not None and output.prompt_logprobs is not None:
                    choice["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, self._names)
                choices.append(choice)
        return self._object(choices) | {"usage": usage(outputs)}

    def _choice(self, index: int, text: str, finish: str | None, reason: str | int | None) -> Object:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": reason}

    def _object(self, choices: list[Object]) -> Object:
        return self.envelope("text_completion", choices)
