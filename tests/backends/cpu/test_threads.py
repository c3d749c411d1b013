"""The pool: sized and pinned from one setting, shared with other ranks, alive after a fork, and free of races."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from brigade import LLM
from brigade.backends.cpu import threads
from brigade.backends.cpu.library import find_kernels, kernels
from brigade.cli.env import native
from brigade.errors import ConfigError

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.matrix import pack

ROOT = Path(__file__).parents[3]


@pytest.fixture
def eight(monkeypatch) -> None:
    """Pretend that this process may use processors 0-3 and 8-11."""
    monkeypatch.setattr(threads, "usable", lambda: (0, 1, 2, 3, 8, 9, 10, 11))
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(("ranks", "expected"), [(None, 8), ("1", 8), ("2", 4), ("3", 2), ("8", 1), ("20", 1)])
def test_ranks_of_one_machine_share_its_processors(eight, monkeypatch, ranks, expected) -> None:
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert threads.default_threads() == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, 8), (16.0, 8), (3.5, 3), (0.5, 1)])
def test_a_containers_quota_counts(eight, monkeypatch, limit, expected) -> None:
    monkeypatch.setattr(threads, "quota", lambda: limit)
    assert threads.default_threads() == expected


def test_both_kinds_of_quota_are_read(tmp_path: Path) -> None:
    assert threads.quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert threads.quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert threads.quota(tmp_path) == 3.0


def test_lists_of_processors_are_read(eight) -> None:
    assert threads.read_cpus("0-2, 9") == (0, 1, 2, 9)
    assert threads.read_cpus("11") == (11,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write processors such as"), ("two", "write processors such as"), ("3-1", "write processors such as"),
        ("0-4", "may not use processor 4; it may use 0-3,8-11"), ("1,1", "names a processor twice"),
        ("0-999999999", "may not use processor 4; it may use 0-3,8-11"), ("٠", "write processors such as"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_in_one_line(eight, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        threads.read_cpus(text)


@pytest.mark.parametrize("count", [0, -1, 9])
def test_threads_out_of_range_are_refused(eight, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"threads is {count}; this process may use 8 processors \(0-3,8-11\): give 1 to 8"):
        threads.check_threads(count)


def test_threads_and_cpus_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        threads.size_pool(threads=1, cpus="0")


def test_the_reference_backend_pins_nothing() -> None:
    with pytest.raises(ConfigError, match="the reference backend pins no threads"):
        LLM(backend="reference", cpus="0")


def test_the_setting_sizes_the_pool_and_torch() -> None:
    most = len(threads.usable())
    llm = LLM(backend="cpu", threads=most, kv_blocks=16)
    assert llm.backend.threads == kernels().br_pool_size() == torch.get_num_threads() == most
    assert LLM(backend="cpu", kv_blocks=16).backend.threads == most, "without a wish, an earlier size stays"
    assert native()["pool"].startswith(f"{most} thread")


def in_a_process(code: str, **environment: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name not in ("BRIGADE_CPUS", "LOCAL_WORLD_SIZE")}
    done = subprocess.run([sys.executable, "-c", code], env=settings | environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PLACES = """
import os
from brigade.backends.cpu.threads import describe_pool, size_pool
before = set(os.listdir("/proc/self/task"))
size_pool({asked})
mine = set(os.listdir("/proc/self/task")) - before
places = sorted(sorted(os.sched_getaffinity(int(thread))) for thread in mine)
print(describe_pool(), "| process", sorted(os.sched_getaffinity(0)), "| own", places)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_pinned_threads_have_a_processor_each_and_the_process_keeps_to_them() -> None:
    cpus = threads.usable()[-2:]
    text = ",".join(map(str, cpus))
    expected = f"| process {list(cpus)} | own {[[cpu] for cpu in cpus[1:]]}"
    found = in_a_process(PLACES.format(asked=f"cpus={text!r}"))
    assert found.endswith(expected) and "pinned to" in found
    assert in_a_process(PLACES.format(asked=""), BRIGADE_CPUS=text) == found
    assert "1 thread, not pinned" in in_a_process(PLACES.format(asked="threads=1"), BRIGADE_CPUS=text), "a wish comes first"
    assert "1 thread, not pinned" in in_a_process(PLACES.format(asked=""), LOCAL_WORLD_SIZE="4096")


def test_a_forked_child_computes_the_same_and_does_not_hang() -> None:
    torch.manual_seed(0)
    packed, x = pack(torch.randn(2048, 64), None, "float32", tree=False), torch.randn(3, 64)
    kernels().br_threads(3, -1)
    expected = packed(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(packed(x), expected) and kernels().br_pool_size() == 1 else 3)
    for _ in range(600):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert torch.equal(packed(x), expected), "the parent's pool goes on"


NO_ROOM = """
import os, resource
from brigade.backends.cpu import threads
from brigade.backends.cpu.threads import describe_pool, size_pool
from brigade.errors import ConfigError
allowed = os.sched_getaffinity(0)
threads.usable = lambda: tuple(range(64))
threads.allowed_threads = lambda: 64
threads._confine = lambda cpus, real=threads._confine: real(cpus) if set(cpus) <= allowed else None
size_pool(threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20), hard))
for asked in ({"threads": 64}, {"cpus": "0-63"}):
    try:
        size_pool(**asked)
    except ConfigError as error:
        print(describe_pool(), "|", error)
threads._sized = False
print("nobody asked:", 1 <= size_pool() < 64)
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(size_pool(threads=2))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_threads_that_the_system_does_not_give_are_one_line_and_the_pool_stays_as_it_was() -> None:
    *refused, unasked, after = in_a_process(NO_ROOM).splitlines()
    for line, name in zip(refused, ("threads", "cpus"), strict=True):
        said = rf"1 thread, not pinned \| {name} asks for 64 threads, but the system starts no more than \d+ \(.*\); give fewer"
        assert re.fullmatch(said, line)
    assert unasked == "nobody asked: True" and after == "2"


@pytest.mark.slow
def test_the_pool_has_no_races(tmp_path: Path) -> None:
    """Under the thread sanitizer: several callers, resizing meanwhile, and a fork."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    sources = [str(ROOT / "csrc" / "pool.cpp"), str(Path(__file__).with_name("pool_driver.cpp"))]
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *sources, "-o", str(tmp_path / "driver")], check=True)
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "0 wrong\n", done.stderr[:3000]


@pytest.mark.skipif(len(threads.usable()) < 2, reason="needs two processors")
def test_a_pool_without_work_sleeps_after_a_while() -> None:
    """It looks for work for a while, so that the next layer need not wake it, and then lets others have the processor."""
    spent = in_a_process(
        "import time, torch; from brigade.backends.cpu.matrix import pack; from brigade.backends.cpu.threads import size_pool\n"
        "size_pool(2, None); m = pack(torch.randn(256, 64), None, 'float32', tree=False); x = torch.randn(1, 64)\n"
        "m(x); before = time.process_time(); time.sleep(0.5); print(time.process_time() - before)"
    )
    assert float(spent) < 0.1
