"""An OpenAI-compatible server, as a measurement asks it: ours, or any other that knows `/v1/completions`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from brigade.bench.http_bodies import HttpError
from brigade.bench.http_client import Address, HttpClient
from brigade.bench.serving import Served, Total
from brigade.bench.workload import Simulated
from brigade.errors import ConfigError

IDS_EVERYBODY_HAS = 1000  # of a vocabulary whose size a server does not tell
WORDS = (
    "the of and to in is was for on as with by at from it an be this that are or his had not but have they which you one were all "
    "her she there would their we him been has when who will more no if out so said what up its about into than them can only "
    "other new some could time these two may then do first any my now such like our over man me even most made after also"
)


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_read = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True)
class ServedModel:
    """What `/v1/models` tells. `vocab_size`: None where it does not tell; `positions` too."""

    name: str
    vocab_size: int | None
    positions: int | None


class OpenAIServer:
    """Belongs to one event loop. `usages` counts the answers that told how many tokens they had."""

    def __init__(self, address: Address, model: str = "", api_key: str | None = None) -> None:
        self.client, self.model = HttpClient(address, api_key), model
        self.answers = self.usages = self.prompt_tokens = 0

    async def models(self) -> list[ServedModel]:
        try:
            status, found = await self.client.json("GET", "/models")
        except HttpError as error:
            raise ConfigError(f"{error}; start a server, or give another --url") from error
        if status != 200 or not isinstance(found, dict) or not isinstance(found.get("data"), list):
            said = _message(found) or f"status {status}"
            raise ConfigError(f"{self.client.address}/models is no list of models ({said}); give an address that ends in /v1")
        return [_model(one) for one in found["data"]]

    def body(self, request: Simulated) -> dict[str, Any]:
        return {
            "model": self.model, "prompt": request.prompt, "max_tokens": request.max_tokens, "temperature": 0.0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    async def ask(self, request: Simulated) -> AsyncIterator[int | Total]:
        """One for each chunk that brings a token. One that brings an end and no text may have a token or none, which the server's
        own count tells, that comes last; and a chunk may have brought several."""
        usage = None
        async with self.client.request("POST", "/completions", self.body(request)) as response:
            if response.status != 200:
                raise HttpError(f"status {response.status}: {_message(await response.read())}")
            while events := await response.events():
                for data in events:
                    if data == b"[DONE]":
                        continue
                    event = _read(data)
                    if event.error is not None:
                        raise HttpError(_message(event.error))
                    usage = event.usage or usage
                    if event.choices:
                        yield 1 if event.choices[0].text or event.choices[0].finish_reason is None else 0
        self.answers += 1
        if usage is None:
            return
        self.usages += 1
        self.prompt_tokens += usage.prompt_tokens
        yield Total(usage.completion_tokens)
        if usage.completion_tokens != request.max_tokens:
            raise HttpError(
                f"an answer of {request.max_tokens} tokens was asked for, and one of {usage.completion_tokens} came; "
                "this server does not know ignore_eos, or its context is too short"
            )

    def notes(self, all_served: Sequence[Served]) -> list[str]:
        """What whoever reads the figures must know of how tokens were counted."""
        found, good = [], [one for served in all_served for one in served.good]
        tokens, chunks = sum(len(one.tokens) for one in good), sum(one.arrivals for one in good)
        if self.usages < self.answers:
            found.append(f"{self.answers - self.usages} of {self.answers} answers told no usage: their tokens are their chunks")
        if tokens != chunks:
            found.append(
                f"{tokens} tokens came in {chunks} chunks: totals are exact, and the chunks of an answer count as of one size"
            )
        if self.usages:
            found.append(f"prompts had {self.prompt_tokens / self.usages:.1f} tokens on average")
        return found

    def close(self) -> None:
        self.client.close()


def _model(told: dict[str, Any]) -> ServedModel:
    meta = told.get("meta") or {}  # llama.cpp's
    return ServedModel(str(told.get("id", "")), meta.get("n_vocab"), told.get("max_model_len") or meta.get("n_ctx_train"))


def _message(found: Any) -> str:
    """What an error says, of the shapes that servers give it."""
    if isinstance(found, bytes):
        try:
            found = msgspec.json.decode(found)
        except msgspec.DecodeError:
            found = found.decode(errors="replace")
    while isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail") or str(found)
    return " ".join(str(found).split())[:300]


def as_texts(requests: Sequence[Simulated], seed: int) -> list[Simulated]:
    """The same requests with words in place of token ids, as many as there were ids."""
    dice, words = random.Random(seed), WORDS.split()
    return [replace(one, prompt=" ".join(dice.choices(words, k=len(one.prompt)))) for one in requests]
