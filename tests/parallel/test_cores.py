"""Every rank of a host has its own processors where there are enough, and one thread where there are not."""

from __future__ import annotations

import pytest

from brigade.backends.cpu import threads
from brigade.errors import ConfigError
from brigade.parallel.cores import Cores, share_out


@pytest.fixture(autouse=True)
def eight(monkeypatch) -> None:
    """Pretend that this process may use processors 0-3 and 8-11."""
    monkeypatch.setattr(threads, "usable", lambda: (0, 1, 2, 3, 8, 9, 10, 11))
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("BRIGADE_CPUS", raising=False)


@pytest.mark.parametrize(("ranks", "each", "own"), [(1, 8, True), (2, 4, True), (3, 2, True), (8, 1, True), (16, 1, False)])
def test_equal_shares(ranks, each, own) -> None:
    assert share_out(ranks) == [Cores(each, None, own)] * ranks


def test_threads_are_of_each_rank() -> None:
    assert share_out(4, threads=2) == [Cores(2, None, True)] * 4
    assert share_out(4, threads=3) == [Cores(3, None, False)] * 4


def test_named_processors_are_shared_out_in_order(monkeypatch) -> None:
    expected = [Cores(1, "1", True), Cores(2, "2,3", True)]
    assert share_out(2, cpus="1-3") == expected
    monkeypatch.setenv("BRIGADE_CPUS", "1-3")
    assert share_out(2) == expected and share_out(2, threads=1) == [Cores(1, None, True)] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threads": 9}, "threads is 9, of each rank; this process may use 8"),
        ({"threads": 0}, "threads is 0"),
        ({"cpus": "0-2"}, "cpus is '0-2', which are 3 processors for 4 ranks"),
        ({"cpus": "0-7"}, "may not use processor 4"),
        ({"cpus": "0-3", "threads": 1}, "give one of them"),
    ],
)
def test_what_cannot_be_is_refused(given, words) -> None:
    with pytest.raises(ConfigError, match=words):
        share_out(4, **given)
