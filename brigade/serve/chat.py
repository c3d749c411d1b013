"""`/v1/chat/completions`: a conversation, and what the assistant says next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar
from uuid import uuid4

from msgspec import Meta

from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.prompt import ChatPrompt
from brigade.serve.errors import ApiError
from brigade.serve.fields import Body, Count, convert
from brigade.serve.job import Answer, Job, Object, usage
from brigade.serve.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from brigade.serve.response_format import constraint_of
from brigade.serve.served import Served
from brigade.serve.turn import Turn, open_turn

MOST_MESSAGES = 4096


class ChatBody(Body, kw_only=True):
    elsewhere: ClassVar[dict[str, str]] = {
        "prompt": "give messages, or ask /v1/completions", "echo": "ask /v1/completions, which has it, or drop it",
    }  # fmt: skip
    messages: list[dict[str, Any]]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        given["max_tokens"] = most  # up to the model's limit, where nothing is said
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        return given

    @property
    def names(self) -> dict[str, str]:
        """What the engine calls a prompt is a conversation here, and a constraint that was not given is what forces calls."""
        longest = {} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
        has_form = self.constraint is not None or (self.response_format or {}).get("type", "text") != "text"
        forces = {} if has_form or not self.tools or self.tool_choice == "none" else {"constraint": "tools"}
        return super().names | {"prompt": "messages"} | longest | forces

    def check(self) -> None:
        self.check_stream()
        if not self.messages:
            raise ApiError(400, 'messages is empty; give at least one, such as {"role": "user", "content": "Hello"}', "messages")
        if len(self.messages) > MOST_MESSAGES:
            raise ApiError(400, f"messages has {len(self.messages)} messages; {MOST_MESSAGES} are allowed: give fewer", "messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs has no effect without logprobs: true; give it, or drop top_logprobs", "top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", "max_completion_tokens")


def read_chat(found: Mapping[str, Any], served: Served) -> ChatAnswer:
    body = convert(found, ChatBody)
    body.check()
    name = served.check_name(body.model)
    tokenizer = served.need_tokenizer("a conversation")
    turn = open_turn(body, tokenizer, constraint_of(body.response_format, body.constraint))
    params = body.sampling() | turn.params
    job = Job(f"chatcmpl-{uuid4().hex}", int(time.time()), [ChatPrompt(turn.prompt)], params, bool(body.stream), body.names)
    return ChatAnswer(job, body, served, name, turn)


class ChatAnswer(Answer):
    def __init__(self, job: Job, body: ChatBody, served: Served, name: str, turn: Turn) -> None:
        super().__init__(job, served, name)
        self.body = body
        self._names = TokenNames(served, bool(body.return_tokens_as_token_ids))
        self._readers = [turn.reader() for _ in range(body.n or 1)]

    def begin(self) -> list[Object]:
        """Clients learn the role before the first word."""
        return [self._chunk(self._delta_choice(index, {"role": "assistant", "content": ""})) for index in range(len(self._readers))]

    def chunk(self, place: int, delta: Delta) -> list[Object]:
        reader = self._readers[delta.index]
        parts = reader.feed(delta.text) + (reader.finish() if delta.finish_reason is not None else [])
        more: Object = {}
        if self.body.logprobs and delta.logprobs:
            more["logprobs"] = chat_logprobs(delta.logprobs, self._names, self.body.top_logprobs or 0)
        if self.body.return_token_ids:
            more["token_ids"] = list(delta.token_ids)
            if delta.prompt_token_ids is not None:
                more["prompt_token_ids"] = list(delta.prompt_token_ids)
        if delta.prompt_logprobs is not None:
            more["prompt_logprobs"] = prompt_logprobs(delta.prompt_logprobs, self._names)
        choices = [self._delta_choice(delta.index, part) for part in parts]
        if delta.finish_reason is not None:
            choices.append(self._delta_choice(delta.index, {}))
            choices[-1] |= {"finish_reason": reader.finish_reason(delta.finish_reason), "stop_reason": delta.stop_reason}
        elif not choices and more:
            choices.append(self._delta_choice(delta.index, {}))
        if choices:
            choices[0] |= more
        return [self._chunk(choice) for choice in choices]

    def end(self, outputs: Sequence[RequestOutput]) -> list[Object]:
        return [self.envelope("chat.completion.chunk", []) | {"usage": usage(outputs)}] if self.body.wants_usage else []

    def whole(self, outputs: Sequence[RequestOutput]) -> Object:
        (output,) = outputs
        choices = []
        for sample in output.samples:
            reader = self._readers[sample.index]
            choice: Object = {
                "index": sample.index, "message": reader.read_whole(sample.text), "logprobs": None,
                "finish_reason": reader.finish_reason(sample.finish_reason), "stop_reason": sample.stop_reason,
            }  # fmt: skip
            if self.body.logprobs:
                choice["logprobs"] = chat_logprobs(sample.logprobs or (), self._names, self.body.top_logprobs or 0)
            if self.body.return_token_ids:
                choice["token_ids"] = list(sample.token_ids)
            choices.append(choice)
        found = self.envelope("chat.completion", choices) | {"usage": usage(outputs)}
        if self.body.return_token_ids:
            found["prompt_token_ids"] = list(output.prompt_token_ids)
        if output.prompt_logprobs is not None and self.body.prompt_logprobs is not None:
            found["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, self._names)
        return found

    def _delta_choice(self, index: int, delta: Object) -> Object:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _chunk(self, choice: Object) -> Object:
        found = self.envelope("chat.completion.chunk", [choice])
        return found | {"usage": None} if self.body.wants_usage else found
