"""Ranks of an `LLM` that are lost, at every time of its life: whoever waits gets one error that names the rank, soon, and nothing
is left of any process. `tests/parallel/test_lives.py` has the single kinds of death and where they are found."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from brigade.errors import EngineStopped, RankFailed
from tests.parallel.interruptible import interruptible
from tests.parallel.leaders import processes
from tests.parallel.test_lives import children_of, is_there, shared_files, wait_until_gone

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
LONG = SamplingParams(max_tokens=900, temperature=0.0, ignore_eos=True)
SAY = (  # a user's script, without a guard of its main: who is there, then what became of them
    "import json, os\nfrom brigade import LLM, SamplingParams\nfrom brigade.errors import EngineStopped\n"
    "from tests.parallel.test_lives import children_of\n"
    "params = SamplingParams(max_tokens=900, temperature=0.0, ignore_eos=True)\n"
    "def work():\n    llm = LLM(kv_blocks=64, tp=2, pp=2)\n"
    "    print(json.dumps(sorted(children_of(os.getpid()))), flush=True)\n"
    "    try:\n        while True:\n            llm.generate(['def f(', 'import os'], params)\n"
    "    except EngineStopped as error:\n        print(error, flush=True)\n"
)
TWO = SAY.replace("pp=2", "pp=1")
THREAD = SAY + "import threading\nthread = threading.Thread(target=work)\nthread.start()\nthread.join()\n"
NAMES = {1: "rank 1 (stage 0, tensor rank 1)", 2: "rank 2 (stage 0, tensor rank 0)", 3: "rank 3 (stage 0, tensor rank 1)"}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    files, children = shared_files(), children_of(os.getpid())
    yield
    assert shared_files() == files and children_of(os.getpid()) == children


def script(how: str, text: str, folder: Path) -> subprocess.Popen:
    """From a file, or from standard input."""
    if how == "file":
        (folder / "script.py").write_text(text)
    arguments = [str(folder / "script.py")] if how == "file" else ["-"]
    made = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    if how == "stdin":
        made.stdin.write(text)
    made.stdin.close()
    return made


def rank_of(process: int) -> int:
    environ = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return int(next(entry for entry in environ if entry.startswith(b"RANK=")).partition(b"=")[2])


def ranks_of(leader: subprocess.Popen) -> dict[int, int]:
    line = leader.stdout.readline()
    assert line, leader.stderr.read()
    return {rank_of(process): process for process in map(int, re.findall("[0-9]+", line))}


@pytest.mark.parametrize(
    ("how", "text", "rank"),
    [
        ("file", TWO + "work()\n", 1),
        pytest.param("file", THREAD, 2, marks=pytest.mark.slow),
        pytest.param("stdin", SAY + "work()\n", 3, marks=pytest.mark.slow),
    ],
    ids=["script", "thread", "stdin"],
)  # fmt: skip
def test_a_killed_rank_is_named_while_a_script_generates(how, text, rank, tmp_path: Path) -> None:
    with script(how, text, tmp_path) as leader:
        found = ranks_of(leader)
        assert sorted(found) == list(range(1, 4 if rank > 1 else 2))
        time.sleep(0.3)
        began = time.monotonic()
        os.kill(found[rank], signal.SIGKILL)
        said = leader.stdout.readline()
        assert time.monotonic() - began < 10 and f"{NAMES[rank]} died by signal 9 (SIGKILL); all ranks were ended" in said, said
        assert leader.wait(10) == 0 and leader.stderr.read() == "" and wait_until_gone(list(found.values())) == []


@pytest.mark.slow
def test_a_killed_leader_leaves_no_rank(tmp_path: Path) -> None:
    with script("file", TWO + "work()\n", tmp_path) as leader:
        found = ranks_of(leader)
        time.sleep(0.3)
        leader.kill()
        assert list(found) == [1] and wait_until_gone(list(found.values()), 10) == []


def test_a_rank_that_hangs_is_named() -> None:
    llm = LLM(kv_blocks=32, tp=2, rank_timeout=2)
    (process,) = processes(llm._assembled.ranks).values()
    stream = llm.stream("def f(", LONG)
    next(stream)
    stream.close()
    assert llm.thread.wait_idle(10)
    os.kill(process, signal.SIGSTOP)  # while it waits for an order: a moment that says least
    began = time.monotonic()
    stream = llm.stream("def f(", LONG)
    with pytest.raises(EngineStopped, match=r"rank 1 \(stage 0, tensor rank 1\) hangs.*for 2 s no rank has finished a layer"):
        list(stream)
    assert 1.5 < time.monotonic() - began < 10
    with pytest.raises(EngineStopped, match="rank 1 .* hangs"):
        llm.generate("x", LONG)  # whoever comes later hears the same
    with pytest.raises(EngineStopped, match="the other ranks are gone .rank 1 .* hangs"):
        llm.make_engine("dynamic")
    llm.close()
    assert not is_there(process)


def test_closing_twice_and_forgetting_leave_nothing() -> None:
    short = SamplingParams(max_tokens=4, temperature=0.0)
    llm = LLM(kv_blocks=32, tp=2)
    (process,) = processes(llm._assembled.ranks).values()
    stream = llm.stream("def f(", LONG)
    next(stream)
    engine = llm.make_engine("dynamic", kv_blocks=16)
    engine.submit([1, 2], short)
    llm.close()
    llm.close()
    assert not is_there(process)
    with pytest.raises(RankFailed, match="closed"):
        engine.step()
    with pytest.raises(EngineStopped, match="this LLM was closed"):
        llm.make_engine("dynamic")
    with pytest.raises(EngineStopped, match="closed"):
        list(stream)
    with pytest.raises(EngineStopped, match="closed"):
        llm.generate("x", short)
    del stream
    llm = LLM(kv_blocks=32, pp=2)
    (process,) = processes(llm._assembled.ranks).values()
    assert llm.generate("def f(", short)[0].token_ids
    del llm
    gc.collect()
    assert wait_until_gone([process]) == []


def command(*options: str, **settings) -> subprocess.Popen:
    return subprocess.Popen(
        interruptible("brigade.cli.main", "generate", *options), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **settings,
    )  # fmt: skip


def test_ctrl_c_ends_a_command_and_its_ranks_with_one_line() -> None:
    with command("def f(", "--tp", "2", "--max-tokens", "900", "--ignore-eos", "--stream", "--kv-blocks", "32") as leader:
        assert leader.stdout.read(20)
        found = list(children_of(leader.pid))
        assert len(found) == 1
        os.killpg(leader.pid, signal.SIGINT)  # as a terminal does: to the whole process group
        leader.stdout.read()
        errors = leader.stderr.read().splitlines()
        assert leader.wait(10) == 130 and wait_until_gone(found) == []
    said_before = ("memory:", "loading:")  # how far loading is, where it takes long
    assert errors[-1] == "brigade: interrupted" and [line for line in errors if not line.startswith(said_before)] == errors[-1:]


def test_a_rank_that_fails_while_loading_is_one_line(tmp_path: Path) -> None:
    """A backend of the user's that raises in rank 1 alone."""
    (tmp_path / "broken_backend.py").write_text(
        "import os\nfrom brigade import register_backend\nfrom brigade.backends.reference import ReferenceBackend\n"
        "class Broken(ReferenceBackend):\n    name = 'broken'\n    def prepare(self, model, weights=None):\n"
        "        if os.environ.get('RANK') == '1':\n            raise LookupError('no such weight')\n"
        "        super().prepare(model, weights)\n"
        "register_backend('broken', Broken)\n"
    )
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with command("x", "--tp", "2", "--import", "broken_backend", "--backend", "broken", env=environ) as leader:
        output, errors = leader.communicate(timeout=60)
    assert leader.returncode == 2 and output == ""
    said = [line for line in errors.splitlines() if line.startswith("brigade")]
    assert len(said) == 1 and "rank 1 (stage 0, tensor rank 1) raised LookupError: no such weight" in said[0], errors
    assert "Traceback" not in errors
