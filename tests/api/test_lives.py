"""Random lives of one `LLM`: eight threads and thirty-two tasks use it at once, cancel, abort, leave, poison and close it.

Nothing hangs, no block is lost, and every output that survives is the one that the request has alone. 50 lives here, 1,000 in
the slow set.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from brigade import LLM, AsyncLLM, SamplingParams, register_parameter
from brigade.engine.sampling import Sampler
from brigade.engine.sampling.sampler import InverseCDF
from brigade.errors import EngineStopped, RequestError

THREADS, TASKS, CALLS = 8, 32, 2
BOUND = 60.0  # seconds after which a life counts as hanging
BAD_WORD = 60  # its row of the word table is NaN
BAD_SEED = 666  # the sampling rule raises for it
RECIPE = (
    "num_layers: 2\nhidden_size: 32\nnum_heads: 4\nnum_kv_heads: 2\nhead_dim: 8\nffn_size: 64\nvocab_size: 61\n"
    "max_positions: 128\nrope: {rotary_dim: 8}\n"
)


def fail(logits_V, value, row):
    if len(row.output_token_ids) == value:
        raise ArithmeticError("a parameter that fails")
    return logits_V


register_parameter("fails_at", lambda value: None if isinstance(value, int) else "it must be an integer", fail)


class Rule:
    """The default rule, which raises for one seed."""

    def choose(self, weights_RV, rows):
        if any(row.seed == BAD_SEED for row in rows):
            raise LookupError("a rule that fails")
        return InverseCDF().choose(weights_RV, rows)


@dataclass(frozen=True)
class Asked:
    """A request; it may be poisoned, and then it fails alone at the same token as in company."""

    prompt: tuple[int, ...]
    params: SamplingParams


PREFIX = tuple(range(10, 50))
PROMPTS = [(1, 2, 3), (4,), PREFIX, (*PREFIX, 7), (*PREFIX, *range(20, 50)), (9, 8, 7, 6, 5)]
KINDS = [{"temperature": 0.0}, {"seed": 1}, {"seed": 2, "top_p": 0.9, "temperature": 1.2}, {"seed": 3, "repetition_penalty": 1.3}]
POISONS = [{"seed": BAD_SEED}, {"extra": {"fails_at": 0}}, {"extra": {"fails_at": 2}, "temperature": 0.0}, {}]


def draw(generator: random.Random) -> Asked:
    prompt, tokens = generator.choice(PROMPTS), generator.choice([1, 5, 12, 30])
    settings = generator.choice(KINDS)
    if generator.random() < 0.2:
        poison = generator.choice(POISONS)
        prompt = prompt if poison else (*prompt, BAD_WORD)
        settings = settings | poison
    return Asked(prompt, SamplingParams(max_tokens=tokens, priority=generator.choice([0, 0, 1]), **settings))


class World:
    """The model's file, and what every request says alone."""

    def __init__(self, folder: Path) -> None:
        self.recipe = folder / "tiny.yaml"
        self.recipe.write_text(RECIPE)
        self._alone: dict[str, tuple[list[int], str]] = {}
        self._lock = threading.Lock()
        self._own = self.make()

    def make(self) -> LLM:
        llm = LLM(
            self.recipe, dtype="float32", random_weights=1, sampler=Sampler(Rule()), kv_blocks=8, block_size=32, max_batch_size=5,
            max_step_tokens=48, prefill_chunk=32, max_waiting=200,
        )  # fmt: skip
        word = llm.model.embedding.word
        with torch.inference_mode():
            getattr(word, "table_VH", word)[BAD_WORD] = math.nan
        return llm

    def alone(self, asked: Asked) -> tuple[list[int], str]:
        key = repr((asked.prompt, asked.params))
        with self._lock:
            if key not in self._alone:
                output = self._own.generate([list(asked.prompt)], asked.params)[0]
                self._alone[key] = output.token_ids, output.finish_reason
            return self._alone[key]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("lives"))


class Life:
    """One LLM, everybody who uses it, and what they found wrong."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        self.llm, self.closes = world.make(), seed % 4 == 3
        self.wrong: list[str] = []
        self.survived = self.stopped = self.failed = 0

    def check(self, asked: Asked, output) -> None:
        if (output.token_ids, output.finish_reason) != self.world.alone(asked):
            self.wrong.append(f"{asked} said {output.token_ids} ({output.error}), alone {self.world.alone(asked)}")
        self.failed += output.finish_reason == "error"
        self.survived += output.finish_reason != "error"

    def call(self, generator: random.Random) -> None:
        """What one thread does once."""
        asked = [draw(generator) for _ in range(generator.randint(1, 3))]
        prompts, params = [list(one.prompt) for one in asked], [one.params for one in asked]
        match generator.randint(0, 4):
            case 0 | 1:
                for one, output in zip(asked, self.llm.generate(prompts, params), strict=True):
                    self.check(one, output)
            case 2:
                stream = self.llm.stream(prompts, params)
                said: dict[str, list[int]] = {str(number): [] for number in range(len(asked))}
                for delta in stream:
                    said[delta.request_id] += delta.token_ids
                for one, output, tokens in zip(asked, stream.outputs, said.values(), strict=True):
                    self.check(one, output)
                    if tokens != output.token_ids:
                        self.wrong.append(f"{one}: the stream said {tokens}, its output {output.token_ids}")
            case 3:
                for count, _ in enumerate(self.llm.stream(prompts, params)):
                    if count == 3:
                        break
            case 4:
                (rows,) = self.llm.logits([prompts[0]])
                if rows.shape[0] != len(prompts[0]) or rows.isfinite().all() == (BAD_WORD in prompts[0]):
                    self.wrong.append(f"logits of {prompts[0]}")

    def run_thread(self, number: int) -> None:
        generator = random.Random(f"{self.seed}/thread {number}")
        for _ in range(CALLS):
            try:
                self.call(generator)
            except EngineStopped:
                self.stopped += 1
            except RequestError as error:
                if "max_waiting" not in str(error):
                    self.wrong.append(str(error))
            except BaseException as error:
                self.wrong.append(repr(error))

    async def task(self, server: AsyncLLM, number: int) -> None:
        generator = random.Random(f"{self.seed}/task {number}")
        asked = draw(generator)
        try:
            match generator.randint(0, 3):
                case 0:
                    self.check(asked, await server.generate(list(asked.prompt), asked.params))
                case 1:
                    tokens: list[int] = []
                    async for delta in server.stream(list(asked.prompt), asked.params):
                        tokens += delta.token_ids
                        if delta.finish_reason is not None and (tokens, delta.finish_reason) != self.world.alone(asked):
                            self.wrong.append(f"{asked} streamed {tokens}, alone {self.world.alone(asked)}")
                case 2:
                    async for _ in server.stream(list(asked.prompt), asked.params):
                        break
                case 3:
                    running = asyncio.ensure_future(server.generate(list(asked.prompt), asked.params))
                    await asyncio.sleep(generator.random() * 0.02)
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
        except EngineStopped:
            self.stopped += 1
        except RequestError as error:
            if "max_waiting" not in str(error):
                self.wrong.append(str(error))

    def run_tasks(self) -> None:
        async def everyone() -> None:
            server = AsyncLLM(self.llm)
            await asyncio.gather(*(self.task(server, number) for number in range(TASKS)))
            server.close()

        try:
            asyncio.run(asyncio.wait_for(everyone(), BOUND))
        except BaseException as error:
            self.wrong.append(repr(error))

    def live(self) -> None:
        people = [threading.Thread(target=self.run_thread, args=(n,), name=f"thread {n}", daemon=True) for n in range(THREADS)]
        people.append(threading.Thread(target=self.run_tasks, name="tasks", daemon=True))
        if self.closes:
            delay = random.Random(self.seed).random() * 0.3
            people.append(threading.Timer(delay, self.llm.close))
        for person in people:
            person.start()
        for person in people:
            person.join(BOUND)
            assert not person.is_alive(), f"life {self.seed}: {person.name} hangs"
        assert not self.wrong, f"life {self.seed}: {self.wrong[0]} ({len(self.wrong)} in all)"
        assert self.llm.thread.wait_idle(BOUND)
        self.llm.close()
        self.llm.engine.check()  # every block is accounted for
        if not self.closes:
            assert self.stopped == 0 and not self.llm.engine.scheduler.has_work
            assert not self.llm.engine._groups and not self.llm.engine._prompts  # nothing is remembered of anybody


def live(world: World, seeds: range) -> None:
    found = []
    for seed in seeds:
        found.append(Life(world, seed))
        found[-1].live()
        found[-1].llm = None
    assert sum(life.survived for life in found) > 10 * len(found)
    assert sum(life.failed for life in found) > len(found) and sum(life.stopped for life in found) > 0


def test_fifty_lives(world: World) -> None:
    live(world, range(50))


@pytest.mark.slow
def test_a_thousand_lives(world: World) -> None:
    live(world, range(1000, 2000))
