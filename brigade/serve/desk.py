"""Runs jobs: prepares them without stopping others, asks the client object, and counts who is open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from brigade.api.faces import AsyncFace, Feed
from brigade.engine.outputs import RequestOutput, Sample
from brigade.engine.prompt import ChatPrompt, named
from brigade.serve.errors import ApiError
from brigade.serve.job import Job
from brigade.serve.served import Served

AT_ONCE = 2000  # characters that are read as tokens between two others' words; more of them, on a thread
EACH = 100  # characters that take as long as what is to be done for any prompt
COMPILING = 2  # threads that read prompts with a constraint; more would take processors from the kernels
CUT_OFF = "this server ended before the answer did; ask again, or ask another"
RETRY = 10  # seconds after which whoever was sent away by a server that ends may look for another


class Desk:
    """`face`: an `AsyncLLM` or an `AsyncClient`."""

    def __init__(self, face: AsyncFace) -> None:
        self.face = face
        self.is_draining = False
        self._compiling = ThreadPoolExecutor(COMPILING, "brigade-constraint")
        self._feeds: set[Feed] = set()  # of the jobs that are open
        self._empty = asyncio.Event()
        self._empty.set()

    async def prepare(self, job: Job, served: Served, is_large: bool = False) -> list[Any]:
        """Prompts as tokens, and parameters that fit `served`. What takes long is done on another thread. Being cancelled ends it,
        of a job with a constraint behind the prompt that is being read."""
        self.check_open()
        if "constraint" in job.params:
            prepared = await self._prepare_in_turns(job, served)
            self.check_open()
            return prepared
        size = sum(EACH + len(prompt.text if isinstance(prompt, ChatPrompt) else prompt) for prompt in job.prompts)
        if is_large or size > AT_ONCE:
            prepared = await asyncio.to_thread(self._prepare, job, served)
            self.check_open()  # it may have begun to drain meanwhile, when this was not open yet
            return prepared
        return self._prepare(job, served)

    def check_open(self) -> None:
        if self.is_draining:
            raise ApiError(503, "this server ends and takes no new requests; try another, or later", None, "draining", RETRY)

    def _prepare(self, job: Job, served: Served) -> list[Any]:
        return [self._prepare_named(place, job, served) for place in range(len(job.prompts))]

    async def _prepare_in_turns(self, job: Job, served: Served) -> list[Any]:
        """One prompt at a time, so that whoever comes later waits for one prompt of each job before it and not for all of them, and
        nothing more is compiled for a client that has left. On threads of their own, so that other work waits for none of it."""
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(self._compiling, self._prepare_named, place, job, served)
            for place in range(len(job.prompts))
        ]

    def _prepare_named(self, place: int, job: Job, served: Served) -> Any:
        with named(place, len(job.prompts)):
            return self._prepare_one(place, job, served)

    def _prepare_one(self, place: int, job: Job, served: Served) -> Any:
        return self.face.prepare(job.prompts[place], job.params)

    @property
    def open(self) -> int:
        """Jobs."""
        return len(self._feeds)

    @contextmanager
    def opened(self, prepared: list[Any], deltas: bool) -> Iterator[Feed]:
        with self.face.opened(prepared, deltas) as feed:
            self._feeds.add(feed)
            self._empty.clear()
            try:
                yield feed
            finally:
                self._feeds.discard(feed)
                if not self._feeds:
                    self._empty.set()

    async def drain(self, seconds: float) -> bool:
        """Take nothing new, and wait for what is open. False where that takes longer."""
        self.is_draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def cut_off(self) -> None:
        """What is open ends now, each with an error that says so."""
        for feed in self._feeds:
            feed.fail(ApiError(503, CUT_OFF, None, "draining", RETRY))


def failed(outputs: list[RequestOutput]) -> Sample | None:
    """One of the answers that could not go on."""
    return next((sample for output in outputs for sample in output.samples if sample.error is not None), None)
