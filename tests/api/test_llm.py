"""The Python face, on the embedded model: its spelling, its refusals, and that it is the same as the parts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

import brigade
from brigade import LLM, SamplingParams
from brigade.errors import UserError

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(kv_blocks=64)


def test_the_documented_spelling(llm: LLM) -> None:
    outs = llm.generate(["def f(", [1, 2, 3]], SamplingParams(max_tokens=16, temperature=0.0, logprobs=5))
    assert len(outs[0].token_ids) == len(outs[0].logprobs) <= 16
    assert outs[0].text == llm.tokenizer.decode(outs[0].token_ids)
    assert outs[0].finish_reason in ("length", "stop")
    assert outs[0].prompt_token_ids == llm.tokenizer.encode("def f(")
    assert outs[1].prompt_token_ids == [1, 2, 3]
    assert len(outs[0].logprobs[0].top) == 5


def test_logits_are_what_generation_reads(llm: LLM) -> None:
    ids = llm.tokenizer.encode("import os\nimport sys\n")
    (full,) = llm.logits([ids])
    assert full.shape == (len(ids), llm.config.vocab_size) and full.dtype == torch.float32
    assert int(full[-1].argmax()) == llm.generate([ids], GREEDY)[0].token_ids[0]
    longer = ids + llm.generate([ids], GREEDY)[0].token_ids
    assert torch.equal(llm.logits([longer, [5, 6]])[0][: len(ids)], full)


def test_logits_equal_those_of_transformers(llm: LLM) -> None:
    from transformers import AutoModelForCausalLM

    from brigade.checkpoint.load import EMBEDDED

    theirs = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32, attn_implementation="eager").eval()
    ids = llm.tokenizer.encode("def fibonacci(n):\n    if n < 2:\n        return n\n")
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    own = LLM(dtype="float32", kv_blocks=8)
    assert (own.logits([ids])[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("engine", ["static", "dynamic"])
def test_both_engines_say_the_same(llm: LLM, engine: str) -> None:
    prompts = ["def main():\n", "class A:\n", "import "]
    other = LLM(engine=engine, kv_blocks=64)
    params = SamplingParams(max_tokens=20, seed=4, temperature=0.8)
    assert [o.token_ids for o in other.generate(prompts, params)] == [o.token_ids for o in llm.generate(prompts, params)]


def test_streams_add_up(llm: LLM) -> None:
    whole = llm.generate(["x = ", "for i in "], GREEDY)
    texts = {"0": "", "1": ""}
    for delta in llm.stream(["x = ", "for i in "], GREEDY):
        texts[delta.request_id] += delta.text
    assert [texts["0"], texts["1"]] == [output.text for output in whole]


def test_leaving_a_stream_early_frees_everything(llm: LLM) -> None:
    for _ in llm.stream("def ", SamplingParams(max_tokens=100)):
        break
    assert llm.thread.wait_idle(10)
    assert not llm.engine.has_work
    llm.engine.check()
    assert llm.generate("def ", GREEDY)[0].finish_reason


def test_one_bad_prompt_refuses_all_and_leaves_nothing(llm: LLM) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        llm.generate(["fine", []], GREEDY)
    assert llm.engine.num_waiting == 0
    assert llm.generate(["fine"], GREEDY)[0].token_ids


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"engine": "magic"}, "engine is 'magic'"),
        ({"backend": "magic"}, "unknown backend 'magic'"),
        ({"block_size": 24}, "block_size is 24"),
        ({"colour": 1}, "unknown setting colour"),
        ({"engine": "static", "prefix_cache": False}, "no effect on the static engine"),
        ({"engine": "static", "max_step_tokens": 4}, "below max_batch_size 32"),
        ({"max_model_len": 5000}, "made for 1024"),
        ({"threads": 0}, "threads is 0"),
        ({"random_weights": 1}, "weights of its own"),
        ({"model": "nowhere"}, "no model 'nowhere'"),
    ],
)
def test_settings_are_refused_in_one_line(settings, words) -> None:
    with pytest.raises(UserError, match=words) as refused:
        LLM(**settings)
    assert "\n" not in str(refused.value)


def test_a_closed_stream_is_at_its_end_for_every_reader(llm: LLM) -> None:
    stream = llm.stream(["x = ", "y = "], SamplingParams(max_tokens=200, ignore_eos=True))
    next(stream)
    readers = [threading.Thread(target=lambda: found.append(list(stream)), daemon=True) for _ in range(2)]
    found: list[list] = []
    for reader in readers:
        reader.start()
    stream.close()
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()
    assert len(found) == 2 and list(stream) == [] and llm.thread.wait_idle(10)


def test_threads_may_read_one_stream_together(llm: LLM) -> None:
    stream, found = llm.stream(["x = ", "y = "], GREEDY), []
    readers = [threading.Thread(target=lambda: found.extend(stream), daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()
    assert [len(output.token_ids) for output in stream.outputs] == [12, 12]
    assert sum(len(delta.token_ids) for delta in found) == 24 and list(llm.stream([], GREEDY)) == []


def test_threads_of_every_backend_are_checked() -> None:
    for backend in ("cpu", "reference"):
        for threads in (0, 100_000):
            with pytest.raises(UserError, match=f"threads is {threads}; this process may use"):
                LLM(backend=backend, threads=threads, kv_blocks=4)


FORKS = """
import os, signal
from brigade import LLM, SamplingParams
from brigade.errors import EngineStopped
used, fresh, params = LLM(kv_blocks=8), LLM(kv_blocks=8), SamplingParams(max_tokens=2, temperature=0.0)
expected = used.generate("x = ", params)[0].token_ids
stream = used.stream("x = ", params)
next(stream)
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        next(stream)
        os._exit(3)
    except EngineStopped as error:
        assert "began it" in str(error)
    try:
        used.generate("x = ", params)
    except EngineStopped as error:
        same = fresh.generate("x = ", params)[0].token_ids == expected
        used.close()
        os._exit(7 if same and "forked" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert used.generate("x = ", params)[0].token_ids == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_is_told_and_hangs_nowhere() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda llm: llm.generate("x = ", {"max_token": 3}), "unknown sampling parameter"),
        (lambda llm: llm.generate("x = ", {3}), "params is a set; give SamplingParams"),
        (lambda llm: llm.generate(["x = ", "y = "], [GREEDY, 7]), "prompt 1: params is a int"),
        (lambda llm: LLM(5), "not a int; give a str or a Path"),
    ],
)
def test_mistakes_of_python_are_one_line(llm: LLM, call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(llm)


def test_public_names_are_there() -> None:
    for name in brigade.__all__:
        assert getattr(brigade, name) is not None
    with pytest.raises(AttributeError):
        _ = brigade.nothing
