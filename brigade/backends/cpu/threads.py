"""How many threads the kernels' pool has, and on which processors. One pool serves the whole process.

Asked for with `threads` (so many, anywhere) or `cpus` ("0-3" or "0,2,4": one thread on each, and nothing of this process
elsewhere); `BRIGADE_CPUS` is the `cpus` of whoever asks for neither. Else as many as this process may use, shared evenly with the
other ranks that `LOCAL_WORLD_SIZE` counts on this machine.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from contextlib import suppress
from pathlib import Path

from brigade.backends.cpu.library import kernels
from brigade.errors import ConfigError

_pinned: tuple[int, ...] = ()
_is_confined = False
_sized = False


@functools.cache
def usable() -> tuple[int, ...]:
    """The processors that this process was allowed when it was first asked."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that the container allows, if it sets a limit."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def allowed_threads() -> int:
    """What may be used, by all ranks of this machine together."""
    most, limit = len(usable()), quota()
    return most if limit is None else min(most, max(int(limit), 1))


def default_threads() -> int:
    """What may be used, and no other rank of this machine uses."""
    most = allowed_threads()
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(most // (int(ranks) if ranks.isdecimal() and int(ranks) else 1), 1)


def read_cpus(text: str, name: str = "cpus") -> tuple[int, ...]:
    """`0-3,8` is 0 1 2 3 8."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ConfigError(f"{name} is {text!r}; write processors such as 0-3 or 0,2,4")
        found += range(first, min(last, max(first, *usable()) + 1) + 1)  # one too many is enough to refuse
    missing = [cpu for cpu in found if cpu not in usable()]
    if missing:
        raise ConfigError(f"{name} is {text!r}, but this process may not use processor {missing[0]}; it may use {_shown(usable())}")
    if len(set(found)) < len(found):
        raise ConfigError(f"{name} is {text!r}, which names a processor twice; give each one thread")
    return tuple(found)


def check_threads(threads: int) -> None:
    """More threads than processors would wait for each other in turns."""
    if not 1 <= threads <= len(usable()):
        raise ConfigError(
            f"threads is {threads}; this process may use {len(usable())} processors ({_shown(usable())}): give 1 to {len(usable())}"
        )


def size_pool(threads: int | None = None, cpus: str | None = None) -> int:
    """Size the pool as asked; without a wish an earlier size stays. Returns the threads in force. Where the system does not start
    as many as were asked for, the pool stays as it was; where nobody asked, it has as many as there can be."""
    global _pinned, _sized
    name, is_asked = "cpus", threads is not None
    if threads is not None and cpus is not None:
        raise ConfigError(f"threads {threads} and cpus {cpus!r} both size the pool; give one of them")
    if threads is None and cpus is None:
        if _sized:
            return kernels().br_pool_size()
        name, cpus = "BRIGADE_CPUS", os.environ.get("BRIGADE_CPUS") or None
    before, wish = (kernels().br_pool_size(), _pinned), default_threads() if threads is None else threads
    if cpus is None:
        check_threads(wish)
        made = _make(wish, ())
        if made < wish and not is_asked:
            wish = made = _make(made, ())
    else:
        wanted = read_cpus(cpus, name)
        wish, made = len(wanted), _make(len(wanted), wanted)
    if made < wish:
        _make(*before)
        raise ConfigError(
            f"{name if cpus is not None else 'threads'} asks for {wish} threads, but the system starts no more than {made} (ulimit "
            "-u and -v, or a container's pids.max limit them); give fewer"
        )
    _pinned, _sized = () if cpus is None else wanted, True
    return made


def _make(count: int, cpus: tuple[int, ...]) -> int:
    """How many threads there could be; where these are fewer, the pool has one."""
    if cpus:
        _confine(cpus)
        return kernels().br_pin((ctypes.c_int32 * count)(*cpus), count)
    if _is_confined:
        _confine(usable())
    return kernels().br_threads(count, -1)


def describe_pool() -> str:
    """`2 threads, pinned to processors 0-1`."""
    count = kernels().br_pool_size()
    return f"{count} thread{'s' * (count != 1)}, {f'pinned to {_shown(_pinned)}' if _pinned else 'not pinned'}"


def _confine(cpus: tuple[int, ...]) -> None:
    """Every thread of this process to these processors; those that start later inherit it."""
    global _is_confined
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("cpus cannot be kept on this system, which has no processor affinity; give threads instead")
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # ended meanwhile
            os.sched_setaffinity(int(thread), cpus)
    _is_confined = cpus != usable()


def _shown(cpus: tuple[int, ...]) -> str:
    """Runs as `first-last`."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)
