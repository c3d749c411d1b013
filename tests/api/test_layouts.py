"""One model over real ranks says what one rank says: every bit of its logits, every token, every log-probability, through every
face of the API. `test_layouts_wide.py` has more layouts and larger models."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
import torch

from brigade import LLM, AsyncLLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from tests.api.conftest import LAYOUTS
from tests.api.small_model import BAD_SEED, POISON, ROOM, greedy, heard, ids, said
from tests.engine.fakes import run_to_end

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)


SLOW = ("reference-tp2-group", "tp2-group")
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in LAYOUTS]


@pytest.fixture(scope="module", params=CASES)
def pair(request, layouts) -> tuple[LLM, LLM]:
    """One rank, and many."""
    return layouts(request.param)


PROMPTS = [ids(1), ids(40, 1), ids(150, 2), ids(33, 3)]  # a prompt in chunks, and borders of blocks
PARAMS = [
    greedy(),
    greedy(prompt_logprobs=2, logprobs=3),
    SamplingParams(max_tokens=8, seed=3, n=3, logprobs=1, top_p=0.9, priority=1),
    SamplingParams(max_tokens=6, seed=4, repetition_penalty=1.4, min_tokens=5, echo=True, prompt_logprobs=0),
]


def test_logits_are_equal_to_the_last_bit(pair) -> None:
    alone, ranks = pair
    expected = alone.logits(PROMPTS)
    assert all(torch.equal(a, b) for a, b in zip(ranks.logits(PROMPTS), expected, strict=True))
    assert all(torch.equal(ranks.logits([prompt])[0], b) for prompt, b in zip(PROMPTS, expected, strict=True))
    assert ranks.numerics_id == alone.numerics_id and expected[1].isfinite().all() and expected[1].std() > 0.5


def test_the_fingerprint_is_that_of_one_rank_also_while_requests_run(pair) -> None:
    alone, ranks = pair
    stream = ranks.stream([ids(30)], greedy(40))
    next(iter(stream))
    found = ranks.fingerprint
    assert found == alone.fingerprint
    assert [one.finish_reason for one in stream][-1] == "length"


def test_everything_that_a_request_says_is_equal(pair) -> None:
    alone, ranks = pair
    prompts, params = (
        PROMPTS * 2 + ["def f(x):", "import"],
        PARAMS * 2 + [greedy(12, stop=("e", "(")), greedy(0, prompt_logprobs=4)],
    )
    params[4:8] = [greedy(9), greedy(3, logit_bias={77: 4.0}), *PARAMS[1:3]]
    expected = [heard(alone.generate([prompt], one)[0]) for prompt, one in zip(prompts, params, strict=True)]
    found = [heard(output) for output in ranks.generate(prompts, params)]
    assert found == expected
    assert (
        len(found[2][3]) == 3 and found[1][2] is not None and found[3][3][0][1].startswith(alone.tokenizer.decode(PROMPTS[3])[:5])
    )


def test_streams_chats_and_tasks_say_the_same(pair) -> None:
    alone, ranks = pair
    asked = [{"role": "user", "content": "sort a list"}]
    assert said(ranks.chat(asked, greedy()).samples[0]) == said(alone.chat(asked, greedy()).samples[0])
    whole = [output.token_ids for output in alone.generate(["x = ", "for i in "], greedy())]
    streamed: dict[str, list[int]] = {"0": [], "1": []}
    for delta in ranks.stream(["x = ", "for i in "], greedy()):
        streamed[delta.request_id] += delta.token_ids
    assert list(streamed.values()) == whole

    async def tasks() -> list[list[int]]:
        server = AsyncLLM(ranks)
        outputs = await asyncio.gather(*(server.generate(prompt, greedy()) for prompt in ("x = ", "for i in ")))
        server.close()
        return [output.token_ids for output in outputs]

    assert asyncio.run(tasks()) == whole


def test_what_fails_in_a_request_ends_it_alone(pair) -> None:
    """A row that is no number, a rule that raises, a parameter that raises: beside requests that go on."""
    alone, ranks = pair
    prompts = [[5, POISON, 9], ids(40, 1), ids(5, 8), ids(5, 9), ids(150, 2)]
    bad = [SamplingParams(max_tokens=9, seed=BAD_SEED), greedy(9, extra={"fails_at_output": 2})]
    outputs = ranks.generate(prompts, [greedy(), greedy(9), *bad, greedy(9)])
    assert [output.finish_reason for output in outputs] == ["error", "length", "error", "error", "length"]
    assert "not finite" in outputs[0].error and "a rule that fails" in outputs[2].error and len(outputs[3].token_ids) == 2
    assert heard(outputs[1])[1:] == heard(alone.generate([prompts[1]], greedy(9))[0])[1:]
    assert outputs[4].token_ids == alone.generate([prompts[4]], greedy(9))[0].token_ids
    assert not ranks.logits([[5, POISON, 9]])[0][1:].isfinite().any()


def test_leaving_a_stream_frees_its_blocks(pair) -> None:
    _, ranks = pair
    for _ in ranks.stream([ids(150, 2), ids(9)], greedy(40, n=2)):
        break
    assert ranks.thread.wait_idle(10) and not ranks.engine.has_work
    ranks.engine.check()


def sizes(llm: LLM) -> list[int]:
    """Of the address space of every rank."""
    board = llm._assembled.ranks.links.board
    found = []
    for rank in range(llm.blueprint.mesh.world):
        status = Path(f"/proc/{board.facts(rank).process}/status").read_text()
        found.append(int(status.partition("VmSize:")[2].split()[0]) << 10)
    return found


def test_more_engines_and_what_they_took_comes_back(pair) -> None:
    """Two of each kind, one after the other, with caches that show: 300 MiB on each rank, or more."""
    alone, ranks = pair
    expected = [alone.generate([prompt], greedy())[0].token_ids for prompt in PROMPTS]
    position = min(ranks.blueprint.position_bytes, *(room.position_bytes for room in ranks._assembled.rooms))
    blocks, before = (300 << 20) // (32 * position), sizes(ranks)
    for kind in ("static", "dynamic") * 2:
        engine = ranks.make_engine(kind, **ROOM | {"kv_blocks": blocks, "max_batch_size": 3})
        for number, prompt in enumerate(PROMPTS):
            engine.submit(prompt, greedy(), str(number))
        run_to_end(engine)
        assert [engine.take_output(str(number)).token_ids for number in range(4)] == expected
        engine.check()
        assert all(now > then + (200 << 20) for now, then in zip(sizes(ranks), before, strict=True))
        engine.close()
        end = time.monotonic() + 10
        while any(now > then + (100 << 20) for now, then in zip(sizes(ranks), before, strict=True)):
            assert time.monotonic() < end, "a closed engine keeps its cache"
            time.sleep(0.01)


def test_two_engines_are_stepped_by_two_threads(pair) -> None:
    alone, ranks = pair
    expected = [alone.generate([prompt], greedy(20))[0].token_ids for prompt in PROMPTS]
    found: dict[str, list[list[int]]] = {}

    def work(kind: str) -> None:
        engine = ranks.make_engine(kind, **ROOM)
        for number, prompt in enumerate(PROMPTS):
            engine.submit(prompt, greedy(20), str(number))
        run_to_end(engine)
        found[kind] = [engine.take_output(str(number)).token_ids for number in range(4)]
        engine.close()

    threads = [threading.Thread(target=work, args=(kind,), daemon=True) for kind in ("static", "dynamic")]
    for thread in threads:
        thread.start()
    assert [output.token_ids for output in ranks.generate(PROMPTS, greedy(20))] == expected
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "two engines wait for each other"
    assert found == {"static": expected, "dynamic": expected}
